//! Keys and values of layers with equal states.
//!
//! Position `p` is in slot `p` of a layer, or in slot `p % ring` where it has a window: a ring is a power
//! of two of slots, and the slots of positions that are no longer seen are reused.

use moexperts_core::{
    Batch, Result, checks,
    positions::{Held, RoundLimits},
};

use super::plan::Place;
use crate::{cuda::Cuda, error::problem, runtime::buffer::CudaBuffer};

/// Values of a key or a value are f32.
const VALUE_BYTES: usize = 4;

/// Slots are allocated in multiples of this, so that memory grows in few steps.
const SLOTS: usize = 64;

/// A span that is read in parts is cut at multiples of this many tokens: whole tiles of rows, so that the
/// tiles of the parts are those of the span.
const ALIGN: usize = 64;

/// Slots of a ring beside those that a token sees, at least: a prompt is read in parts as long.
const CHUNK: usize = 512;

/// The largest ring; kernels count positions in 32 bits.
const MOST_RING: usize = 1 << 31;

/// Keys and values of layers with equal states, for all sequences.
#[derive(Debug)]
pub(crate) struct KvGroup {
    kv_heads: usize,
    head_dim: usize,
    value_dim: usize,
    window: Option<usize>,
    layers: usize,
    sequences: Vec<KvSequence>,
}

/// One sequence: for each layer, keys [slots, kv_heads, key stride] and then values
/// [slots, kv_heads, value stride].
#[derive(Debug)]
struct KvSequence {
    buffer: CudaBuffer,
    /// Slots of a layer.
    slots: usize,
    /// Positions that each layer holds.
    held: Vec<Held>,
}

/// The keys and values of a layer.
pub(crate) struct KvLayer<'a> {
    /// The index of the group.
    pub(crate) group_index: usize,
    pub(crate) group: &'a mut KvGroup,
    /// The index of the layer in its group.
    pub(crate) index: usize,
}

impl KvGroup {
    /// A group without layers.
    pub(crate) fn new(
        [kv_heads, head_dim, value_dim]: [usize; 3],
        window: Option<usize>,
        sequences: usize,
    ) -> Self {
        let sequence = || KvSequence { buffer: CudaBuffer::default(), slots: 0, held: Vec::new() };
        let sequences = (0..sequences).map(|_| sequence()).collect();
        Self { kv_heads, head_dim, value_dim, window, layers: 0, sequences }
    }

    /// Adds a layer, before anything is read. Returns its index in the group.
    pub(crate) fn push_layer(&mut self) -> usize {
        self.sequences.iter_mut().for_each(|sequence| sequence.held.push(Held::default()));
        self.layers += 1;
        self.layers - 1
    }

    /// Values from a head of a key, and of a value, to the next: whole 16 bytes, zeros after the
    /// head's.
    pub(super) fn head_strides(&self) -> [usize; 2] {
        [self.head_dim, self.value_dim].map(|dim| dim.next_multiple_of(16 / VALUE_BYTES))
    }

    /// Values of a slot, of keys and of values.
    fn slot_values(&self) -> [usize; 2] {
        self.head_strides().map(|stride| self.kv_heads * stride)
    }

    /// Slots of a ring, if the layers have rings.
    fn ring(&self) -> Option<usize> {
        let ring = (self.window? - 1).checked_add(CHUNK)?.checked_next_power_of_two()?;
        (ring <= MOST_RING).then_some(ring)
    }

    /// The slot of a position, as a mask.
    pub(super) fn mask(&self) -> u32 {
        self.ring().map_or(u32::MAX, |ring| (ring - 1) as u32)
    }

    /// The limits of a round of a batch.
    pub(super) fn limits(&self) -> RoundLimits {
        RoundLimits { window: self.window, align: ALIGN }
    }

    /// Positions of a sequence that a round can hold.
    pub(super) fn capacity(&self, sequence: usize) -> usize {
        self.ring().map_or(usize::MAX, |_| self.sequences[sequence].slots)
    }

    /// Slots of a layer of a sequence.
    pub(super) fn slots(&self, sequence: usize) -> usize {
        self.sequences[sequence].slots
    }

    /// Allocates memory for a number of positions of a sequence, or for as many as a layer holds.
    pub(crate) fn reserve(&mut self, cuda: &Cuda, sequence: usize, positions: usize) -> Result<()> {
        let old = &self.sequences[sequence];
        let positions = positions.min(self.ring().unwrap_or(usize::MAX));
        if positions <= old.slots {
            return Ok(());
        }
        let widths = self.slot_values();
        let bytes_of = |slots: usize| {
            let values = slots.checked_mul(widths[0] + widths[1])?.checked_mul(self.layers)?;
            Some((slots, values.checked_mul(VALUE_BYTES)?))
        };
        let (slots, bytes) = positions
            .checked_next_multiple_of(SLOTS)
            .and_then(bytes_of)
            .ok_or_else(|| problem(format!("no memory for {positions} positions")))?;
        let mut buffer = CudaBuffer::default();
        if bytes > 0 {
            buffer.reserve(cuda, bytes)?;
        }
        // Positions are in the slots of their number until a ring is whole.
        let layer_values = widths[0] + widths[1];
        for (layer, held) in old.held.iter().enumerate() {
            let firsts = [0, widths[0]];
            for (first, width) in firsts.into_iter().zip(widths) {
                let at = |slots: usize| (layer * layer_values + first) * slots * VALUE_BYTES;
                let bytes = held.to * width * VALUE_BYTES;
                buffer.copy_from(cuda, at(slots), (&old.buffer, at(old.slots)), bytes)?;
            }
        }
        let sequence = &mut self.sequences[sequence];
        (sequence.buffer, sequence.slots) = (buffer, slots);
        Ok(())
    }

    /// Whether the layers can continue at a position of a sequence.
    pub(crate) fn can_cut(&self, sequence: usize, position: usize) -> bool {
        self.sequences[sequence].held.iter().all(|held| held.can_cut(position, self.window))
    }

    /// Bytes of allocated memory.
    pub(crate) fn size_bytes(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.buffer.bytes()).sum()
    }

    /// Checks that a layer, which is `index` here and `layer` of all, can read a batch, and allocates
    /// memory for it.
    pub(super) fn begin(
        &mut self,
        cuda: &Cuda,
        [layer, index]: [usize; 2],
        batch: &Batch,
    ) -> Result<()> {
        let held = |sequence: usize| self.sequences[sequence].held[index];
        checks::spans(batch, layer, self.window, self.sequences.len(), held)?;
        for span in batch.spans() {
            let (end, slots) = (span.start + span.tokens, self.sequences[span.sequence].slots);
            if end > slots {
                self.reserve(cuda, span.sequence, end.max(2 * slots))?;
            }
        }
        Ok(())
    }

    /// Counts the positions of a batch as held by a layer, and those that they replaced as not.
    pub(super) fn commit(&mut self, index: usize, batch: &Batch) {
        for span in batch.spans() {
            let KvSequence { slots, held, .. } = &mut self.sequences[span.sequence];
            let held = &mut held[index];
            held.cut(span.start);
            held.to = span.start + span.tokens;
            held.from = held.from.max(held.to.saturating_sub(*slots));
        }
    }

    /// Counts the positions that a layer may have written or overwritten, when it failed to read a batch,
    /// as not held.
    pub(super) fn forget(&mut self, index: usize, batch: &Batch) {
        self.commit(index, batch);
        for span in batch.spans() {
            let held = &mut self.sequences[span.sequence].held[index];
            let from = held.from;
            held.cut(span.start);
            // Positions are of use only if a layer can continue after them.
            let rest = Held { from, to: held.to };
            if !rest.can_cut(rest.to, self.window) {
                *held = Held::default();
            }
        }
    }

    /// The addresses of a sequence.
    pub(super) fn place(&self, cuda: &Cuda, sequence: usize) -> Place {
        let KvSequence { buffer, slots, .. } = &self.sequences[sequence];
        let [keys, values] = self.slot_values().map(|width| slots * width);
        Place {
            keys: buffer.ptr(cuda),
            values: buffer.ptr(cuda).offset(keys * VALUE_BYTES),
            layer_stride: keys + values,
        }
    }
}

#[cfg(test)]
mod tests {
    use moexperts_core::Span;

    use super::*;

    /// What a layer holds of a sequence after it has read `held` tokens and failed to read a span.
    fn after_failure(window: Option<usize>, held: usize, start: usize, tokens: usize) -> Held {
        let mut group = KvGroup::new([1, 4, 4], window, 1);
        group.push_layer();
        // No kernel runs, so no memory is needed.
        group.sequences[0].slots = group.ring().unwrap_or(4096);
        let batch = |start, tokens| Batch::new(vec![Span { sequence: 0, start, tokens }]);
        group.commit(0, &batch(0, held));
        group.forget(0, &batch(start, tokens));
        group.sequences[0].held[0]
    }

    #[test]
    fn positions_that_failed_launches_may_have_overwritten_are_not_held() {
        assert_eq!(after_failure(None, 2000, 2000, 5), Held { from: 0, to: 2000 });
        assert_eq!(after_failure(None, 2000, 1500, 5), Held { from: 0, to: 1500 });
        // Of a ring of 1024 slots.
        assert_eq!(after_failure(Some(100), 2000, 2000, 5), Held { from: 981, to: 2000 });
        assert_eq!(after_failure(Some(100), 2000, 2000, 925), Held { from: 1901, to: 2000 });
        assert_eq!(after_failure(Some(100), 2000, 2000, 926), Held::default());
        assert_eq!(after_failure(Some(100), 2000, 1200, 5), Held { from: 976, to: 1200 });
        assert_eq!(after_failure(Some(100), 2000, 0, 5), Held::default());
    }

    #[test]
    fn a_ring_is_a_power_of_two_that_holds_a_window_and_a_chunk() {
        let ring = |window| KvGroup::new([1, 4, 4], window, 0).ring();
        for (window, expected) in [
            (None, None),
            (Some(1), Some(512)),
            (Some(2), Some(1024)),
            (Some(513), Some(1024)),
            (Some(514), Some(2048)),
            (Some(4096), Some(8192)),
            (Some(1 << 31), None),
            (Some(usize::MAX), None),
        ] {
            assert_eq!(ring(window), expected, "{window:?}");
        }
    }
}
