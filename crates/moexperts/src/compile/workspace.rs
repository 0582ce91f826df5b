//! The memory that the values of a plan lie in.

use std::{collections::VecDeque, sync::Arc};

use moexperts_core::Device;

use super::plan::Plan;
use crate::{error::Result, experts_implementation::Phase};

/// The values of one caller's compiled forwards, and the plan of its last one.
#[derive(Debug)]
pub(crate) struct Workspace<D: Device> {
    pub(super) tensors: Vec<D::Tensor>,
    /// What each tensor has room for.
    sizes: Vec<usize>,
    pub(super) routings: Vec<D::Routing>,
    pairs: Vec<usize>,
    /// What the device keeps of the plans that ran here, by their numbers; the last one's at the end.
    recordings: VecDeque<(u64, D::Recording)>,
    pub(crate) last: Option<LastPlan<D>>,
}

/// Plans whose recordings are kept.
const RECORDINGS: usize = 8;

/// The plan of a caller's last forward, and when it is that of the next.
#[derive(Debug)]
pub(crate) struct LastPlan<D: Device> {
    /// The number of the model's state.
    pub(crate) state: u64,
    pub(crate) phase: Phase,
    pub(crate) plan: Arc<Plan<D>>,
}

impl<D: Device> Default for Workspace<D> {
    fn default() -> Self {
        Self {
            tensors: Vec::new(),
            sizes: Vec::new(),
            routings: Vec::new(),
            pairs: Vec::new(),
            recordings: VecDeque::new(),
            last: None,
        }
    }
}

impl<D: Device> Workspace<D> {
    /// Makes room for tensors and routings of so many values and pairs, where there is less.
    pub(super) fn fit(&mut self, device: &D, tensors: &[usize], routings: &[usize]) -> Result<()> {
        for (place, &size) in tensors.iter().enumerate() {
            if place == self.tensors.len() {
                self.tensors.push(D::Tensor::default());
                self.sizes.push(0);
            }
            if self.sizes[place] < size {
                self.tensors[place] = device.new_tensor(size)?;
                self.sizes[place] = size;
            }
        }
        for (place, &pairs) in routings.iter().enumerate() {
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

    /// Takes out what the device keeps of a plan.
    pub(super) fn take_recording(&mut self, plan: u64) -> D::Recording {
        let place = self.recordings.iter().position(|(number, _)| *number == plan);
        let kept = place.and_then(|place| self.recordings.remove(place));
        kept.map_or_else(D::Recording::default, |(_, recording)| recording)
    }

    /// Keeps what the device keeps of a plan, and forgets that of one that did not run for long.
    pub(super) fn keep_recording(&mut self, plan: u64, recording: D::Recording) {
        if self.recordings.len() == RECORDINGS {
            self.recordings.pop_front();
        }
        self.recordings.push_back((plan, recording));
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
