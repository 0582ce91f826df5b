//! The memory that the values of a program lie in.

use std::collections::VecDeque;

use moexperts_core::Device;

use super::values::RowCounts;
use crate::error::Result;

/// What a place has to hold in a forward: the larger of these times the rows of their kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PlaceSize {
    /// Values, or pairs of a routing, for each token.
    pub(super) per_token: usize,
    /// Values for each row of logits.
    pub(super) per_logits_row: usize,
}

impl PlaceSize {
    pub(crate) fn values(self, counts: RowCounts) -> usize {
        (self.per_token * counts.tokens).max(self.per_logits_row * counts.logits)
    }
}

/// The values of one caller's forwards, from one forward to the next.
#[derive(Debug)]
pub(crate) struct Workspace<D: Device> {
    pub(super) tensors: Vec<D::Tensor>,
    /// Values that each tensor takes without allocating.
    pub(super) sizes: Vec<usize>,
    pub(super) routings: Vec<D::Routing>,
    pairs: Vec<usize>,
    /// What the device keeps of the programs that ran here, by their numbers; the last one's at the
    /// end.
    recordings: VecDeque<(u64, D::Recording)>,
}

/// Programs whose recordings are kept: one for each number of sequences that decode together, as they
/// come and go.
const RECORDINGS: usize = 8;

impl<D: Device> Default for Workspace<D> {
    fn default() -> Self {
        Self {
            tensors: Vec::new(),
            sizes: Vec::new(),
            routings: Vec::new(),
            pairs: Vec::new(),
            recordings: VecDeque::new(),
        }
    }
}

impl<D: Device> Workspace<D> {
    /// Makes every place as large as a forward needs it, where it is smaller.
    pub(super) fn fit(
        &mut self,
        device: &D,
        tensors: &[PlaceSize],
        routings: &[PlaceSize],
        counts: RowCounts,
    ) -> Result<()> {
        for (place, size) in tensors.iter().map(|size| size.values(counts)).enumerate() {
            if place == self.tensors.len() {
                self.tensors.push(D::Tensor::default());
                self.sizes.push(0);
            }
            if self.sizes[place] < size {
                self.tensors[place] = device.new_tensor(size)?;
                self.sizes[place] = size;
            }
        }
        for (place, pairs) in routings.iter().map(|size| size.values(counts)).enumerate() {
            if place == self.routings.len() {
                self.routings.push(D::Routing::default());
                self.pairs.push(0);
            }
            if self.pairs[place] < pairs {
                self.routings[place] = device.new_routing(pairs)?;
                self.pairs[place] = pairs;
            }
        }
        Ok(())
    }

    /// Takes out a tensor, which leaves an empty place.
    pub(super) fn take(&mut self, place: usize) -> D::Tensor {
        self.sizes[place] = 0;
        std::mem::take(&mut self.tensors[place])
    }

    /// Takes out what the device keeps of a program.
    pub(super) fn take_recording(&mut self, program: u64) -> D::Recording {
        let place = self.recordings.iter().position(|(number, _)| *number == program);
        let kept = place.and_then(|place| self.recordings.remove(place));
        kept.map_or_else(D::Recording::default, |(_, recording)| recording)
    }

    /// Keeps what the device keeps of a program, and drops that of the one that ran longest ago.
    pub(super) fn keep_recording(&mut self, program: u64, recording: D::Recording) {
        if self.recordings.len() == RECORDINGS {
            self.recordings.pop_front();
        }
        self.recordings.push_back((program, recording));
    }

    /// Gives `work` some tensors to write and all the others to read.
    pub(super) fn write<const N: usize>(
        &mut self,
        places: [usize; N],
        work: impl FnOnce(&mut [D::Tensor; N], &[D::Tensor]) -> Result<()>,
    ) -> Result<()> {
        let mut written = places.map(|place| std::mem::take(&mut self.tensors[place]));
        let result = work(&mut written, &self.tensors);
        for (place, tensor) in places.into_iter().zip(written) {
            self.tensors[place] = tensor;
        }
        result
    }
}
