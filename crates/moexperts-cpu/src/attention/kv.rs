//! Keys and values of one layer, in f32, each head's apart.
//!
//! The positions of a head lie next to each other, as the kernels read them. A layer with a window
//! holds at most `window - 1 + CHUNK` of them: when more come, those that are not seen any more are
//! dropped and the others move to the front, `window - 1` positions for each `CHUNK` tokens.

use std::{collections::TryReserveError, ops::Range};

use moexperts_core::{
    Batch, Result, checks,
    positions::{Held, Part, RoundLimits},
};

use crate::cpu::Cpu;

/// Tokens whose queries pass over the keys together: the rows of a panel.
pub(super) const QUERY_TOKENS: usize = 16;

/// Positions that a layer with a window can hold beside those that a token sees: moving a window
/// of a few thousand positions once in 512 tokens costs less than reading it once.
const CHUNK: usize = 512;

/// Keys and values of one layer and all sequences.
#[derive(Debug)]
pub(crate) struct KvState {
    dims: HeadDims,
    window: Option<usize>,
    sequences: Vec<Sequence>,
}

/// Values of a position of one head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadDims {
    pub(crate) keys: usize,
    pub(crate) values: usize,
}

#[derive(Debug, Clone)]
struct Sequence {
    held: Held,
    heads: Vec<Head>,
}

/// Keys [positions, head_dim] and values [positions, value_dim] of one head, of the positions that
/// are held.
#[derive(Debug, Clone, Default)]
struct Head {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl KvState {
    /// A state that holds no position.
    pub(crate) fn new(
        kv_heads: usize,
        dims: HeadDims,
        window: Option<usize>,
        sequences: usize,
    ) -> Self {
        let sequence = Sequence { held: Held::default(), heads: vec![Head::default(); kv_heads] };
        Self { dims, window, sequences: vec![sequence; sequences] }
    }

    /// Allocates for that many positions of a sequence, or for as many as are held at a time.
    pub(crate) fn reserve(&mut self, sequence: usize, positions: usize) -> Result<()> {
        let positions = positions.min(self.most_positions());
        self.sequences[sequence]
            .reserve(self.dims, positions, self.window.is_some())
            .map_err(|error| Cpu::problem(format!("no memory for {positions} positions: {error}")))
    }

    /// Whether the layer can go on at a position of a sequence.
    pub(crate) fn can_cut(&self, sequence: usize, position: usize) -> bool {
        self.sequences[sequence].held.can_cut(position, self.window)
    }

    /// Bytes that are allocated.
    pub(crate) fn size_bytes(&self) -> usize {
        let heads = self.sequences.iter().flat_map(|sequence| &sequence.heads);
        let values: usize = heads.map(|head| head.keys.capacity() + head.values.capacity()).sum();
        values * size_of::<f32>()
    }

    /// The limits of a round of a batch.
    pub(super) fn limits(&self) -> RoundLimits {
        RoundLimits { window: self.window, align: QUERY_TOKENS }
    }

    /// Positions of a sequence that are held at a time, at most.
    pub(super) fn most_positions(&self) -> usize {
        self.window.map_or(usize::MAX, |window| (window - 1).saturating_add(CHUNK))
    }

    /// Positions of a sequence that memory is allocated for.
    pub(super) fn capacity(&self, sequence: usize) -> usize {
        let heads = self.sequences[sequence].heads.first();
        let values = heads.map_or(0, |head| head.keys.capacity());
        values.checked_div(self.dims.keys).unwrap_or(0)
    }

    /// Forgets what the spans of a batch replace and allocates for their tokens; if it cannot,
    /// nothing is forgotten.
    pub(super) fn begin(&mut self, layer: usize, batch: &Batch) -> Result<()> {
        let held = |sequence: usize| self.sequences[sequence].held;
        checks::spans(batch, layer, self.window, self.sequences.len(), held)?;
        for span in batch.spans() {
            let from = self.sequences[span.sequence].held.from.min(span.start);
            let positions = span.start + span.tokens - from;
            let capacity = self.capacity(span.sequence);
            if positions.min(self.most_positions()) > capacity {
                self.reserve(span.sequence, positions.max(2 * capacity))?;
            }
        }
        for span in batch.spans() {
            self.sequences[span.sequence].cut(span.start, self.dims);
        }
        Ok(())
    }

    /// Adds some tokens of a span, keys and values [tokens, heads, width]. What the tokens of a
    /// round do not see is dropped if it has to be.
    pub(super) fn append(&mut self, part: &Part, keys: &[f32], values: &[f32]) {
        let most = self.most_positions();
        let dims = self.dims;
        let sequence = &mut self.sequences[part.span.sequence];
        if sequence.held.to - sequence.held.from + part.tokens > most {
            sequence.drop_before(part.seen_from, dims);
        }
        let heads = sequence.heads.len();
        for (index, head) in sequence.heads.iter_mut().enumerate() {
            let of_head = |dim: usize| index * dim..(index + 1) * dim;
            push_head(&mut head.keys, keys, heads * dims.keys, of_head(dims.keys));
            push_head(&mut head.values, values, heads * dims.values, of_head(dims.values));
        }
        sequence.held.to += part.tokens;
    }

    /// Keys and values of one head at the positions `seen` of a sequence, which are held, and of
    /// those after them.
    pub(super) fn seen(&self, sequence: usize, head: usize, seen: &Range<usize>) -> [&[f32]; 2] {
        let Sequence { held, heads } = &self.sequences[sequence];
        let first = seen.start - held.from;
        let Head { keys, values } = &heads[head];
        [&keys[first * self.dims.keys..], &values[first * self.dims.values..]]
    }
}

impl Sequence {
    /// Allocates for that many positions, exactly where their number is limited.
    fn reserve(
        &mut self,
        dims: HeadDims,
        positions: usize,
        exact: bool,
    ) -> Result<(), TryReserveError> {
        for head in &mut self.heads {
            let buffers = [(&mut head.keys, dims.keys), (&mut head.values, dims.values)];
            for (buffer, dim) in buffers {
                let more = positions.saturating_mul(dim).saturating_sub(buffer.len());
                if exact {
                    buffer.try_reserve_exact(more)?;
                } else {
                    buffer.try_reserve(more)?;
                }
            }
        }
        Ok(())
    }

    /// Forgets the positions from `position` on.
    fn cut(&mut self, position: usize, dims: HeadDims) {
        self.held.cut(position);
        let held = self.held.to - self.held.from;
        for head in &mut self.heads {
            head.keys.truncate(held * dims.keys);
            head.values.truncate(held * dims.values);
        }
    }

    /// Drops the positions before `position`, which is held or the next.
    fn drop_before(&mut self, position: usize, dims: HeadDims) {
        let dropped = position - self.held.from;
        for head in &mut self.heads {
            head.keys.drain(..dropped * dims.keys);
            head.values.drain(..dropped * dims.values);
        }
        self.held.from = position;
    }
}

/// Adds the columns `head` of each row of `cols` values.
fn push_head(buffer: &mut Vec<f32>, rows: &[f32], cols: usize, head: Range<usize>) {
    for row in rows.chunks_exact(cols.max(1)) {
        buffer.extend_from_slice(&row[head.clone()]);
    }
}
