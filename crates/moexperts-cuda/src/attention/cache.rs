//! Keys and values that are kept.

use moexperts_core::{KvCacheSpec, Result, Span, checks};

use crate::{
    cuda::Cuda,
    driver::{DevicePtr, Work},
    memory::Buffer,
};

/// Values of a key or a value are f32.
const VALUE_BYTES: usize = 4;

/// Positions that a sequence has room for are a multiple of this.
const POSITIONS: usize = 64;

/// Keys and values of all layers and sequences.
#[derive(Debug)]
pub struct KvCache {
    spec: KvCacheSpec,
    sequences: Vec<Sequence>,
}

/// One sequence: [layers, 2 (keys, values), capacity, kv_heads, head stride].
#[derive(Debug)]
struct Sequence {
    buffer: Buffer,
    /// Positions there is room for.
    capacity: usize,
    /// Positions that each layer holds.
    held: Vec<usize>,
}

/// Where kernels find a sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The keys of layer 0.
    pub(super) keys: DevicePtr,
    /// The values of layer 0.
    pub(super) values: DevicePtr,
    /// Values from a layer to the next.
    pub(super) layer_stride: usize,
    /// Positions there is room for.
    pub(super) capacity: usize,
}

impl KvCache {
    pub(crate) fn new(spec: KvCacheSpec) -> Self {
        let sequence =
            || Sequence { buffer: Buffer::default(), capacity: 0, held: vec![0; spec.layers] };
        Self { spec, sequences: (0..spec.sequences).map(|_| sequence()).collect() }
    }

    pub(super) fn spec(&self) -> &KvCacheSpec {
        &self.spec
    }

    /// Values from a head of a position to the next: whole 16 bytes, zeros after the head's.
    pub(super) fn head_stride(&self) -> usize {
        self.spec.head_dim.next_multiple_of(16 / VALUE_BYTES)
    }

    /// Values from a position to the next.
    fn stride(&self) -> usize {
        self.spec.kv_heads * self.head_stride()
    }

    /// Room for so many positions of a sequence.
    pub(crate) fn reserve(&mut self, cuda: &Cuda, sequence: usize, positions: usize) -> Result<()> {
        checks::indices("sequence", [sequence], self.sequences.len())?;
        let old = &self.sequences[sequence];
        if positions <= old.capacity {
            return Ok(());
        }
        let stride = self.stride();
        let bytes_of = |capacity: usize| {
            let values = capacity.checked_mul(stride)?.checked_mul(2 * self.spec.layers)?;
            Some((capacity, values.checked_mul(VALUE_BYTES)?))
        };
        let (capacity, bytes) = positions
            .checked_next_multiple_of(POSITIONS)
            .and_then(bytes_of)
            .ok_or_else(|| Cuda::problem(format!("no memory for {positions} positions")))?;
        let mut buffer = Buffer::default();
        buffer.reserve(cuda, bytes)?;
        for (layer, &held) in old.held.iter().enumerate().filter(|&(_, &held)| held > 0) {
            for part in [2 * layer, 2 * layer + 1] {
                cuda.submit(Work::Copy {
                    from: old.buffer.ptr().offset(part * old.capacity * stride * VALUE_BYTES),
                    to: buffer.ptr().offset(part * capacity * stride * VALUE_BYTES),
                    bytes: held * stride * VALUE_BYTES,
                })?;
            }
        }
        let sequence = &mut self.sequences[sequence];
        (sequence.buffer, sequence.capacity) = (buffer, capacity);
        Ok(())
    }

    /// Forgets what the span overwrites and counts its positions as held, with room for them.
    pub(super) fn append(&mut self, cuda: &Cuda, layer: usize, span: Span) -> Result<()> {
        checks::indices("layer", [layer], self.spec.layers)?;
        checks::indices("sequence", [span.sequence], self.sequences.len())?;
        let sequence = &self.sequences[span.sequence];
        let held = sequence.held[layer];
        checks::position(span.start, held)?;
        let end = span.start + span.tokens;
        if end > sequence.capacity {
            let doubled = 2 * sequence.capacity;
            self.reserve(cuda, span.sequence, end.max(doubled))?;
        }
        self.sequences[span.sequence].held[layer] = end;
        Ok(())
    }

    /// Forgets the positions of a span and those after it.
    pub(super) fn forget(&mut self, layer: usize, span: Span) {
        let held = &mut self.sequences[span.sequence].held[layer];
        *held = span.start.min(*held);
    }

    /// Where a sequence is.
    pub(super) fn place(&self, sequence: usize) -> Place {
        let Sequence { buffer, capacity, .. } = &self.sequences[sequence];
        let values = capacity * self.stride();
        Place {
            keys: buffer.ptr(),
            values: buffer.ptr().offset(values * VALUE_BYTES),
            layer_stride: 2 * values,
            capacity: *capacity,
        }
    }
}
