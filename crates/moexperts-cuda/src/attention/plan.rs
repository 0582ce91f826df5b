//! What kernels are told of a batch, in the device's memory: what varies from token to token,
//! positions above all, so that the launches of one decode step are those of the next.

use bytemuck::{Pod, Zeroable};
use moexperts_core::{Result, positions::Part};

use crate::{cuda::Cuda, driver::DevicePtr, runtime::memory::Buffer};

/// `Span` of attention.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Span {
    keys: DevicePtr,
    values: DevicePtr,
    layer_stride: u64,
    start: u32,
    tokens: u32,
    row: u32,
    before: u32,
}

/// `Tile` of attention.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Tile {
    span: u32,
    row: u32,
}

/// Where kernels find the keys and values of a sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The keys of the first layer.
    pub(super) keys: DevicePtr,
    /// The values of the first layer.
    pub(super) values: DevicePtr,
    /// Values from a layer to the next.
    pub(super) layer_stride: usize,
}

/// Whether a span has few rows: its keys are divided among blocks too.
pub(super) fn has_few_rows(group: usize, span_tokens: usize) -> bool {
    const FEW_ROWS: usize = 64;
    span_tokens == 1 || span_tokens * group <= FEW_ROWS
}

/// How the rows of spans are cut into tiles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiling {
    /// Query heads of a key/value head: rows of a token.
    pub(super) group: usize,
    /// Rows of a tile of a span that has many.
    pub(super) many_rows: usize,
    /// Rows of a tile of a span that has few; none if all spans count as such of many.
    pub(super) few_rows: Option<usize>,
}

/// Neighbours in a plan.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Section {
    /// Where they begin, in words.
    at: usize,
    /// How many there are.
    pub(super) len: usize,
}

impl Section {
    /// Where they are in a copy of the plan on the device.
    pub(super) fn ptr(self, plan: DevicePtr) -> DevicePtr {
        plan.offset(4 * self.at)
    }
}

/// What is read at once.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Round {
    pub(super) tokens: usize,
    pub(super) spans: Section,
    /// Tiles of the spans of many rows.
    pub(super) many: Section,
    /// Tiles of the spans of few rows.
    pub(super) few: Section,
}

/// Spans and tiles, round after round.
#[derive(Debug, Default)]
pub(super) struct Plan {
    words: Vec<u32>,
    rounds: Vec<Round>,
    /// The words that the device has.
    uploaded: Vec<u32>,
    buffer: Buffer,
}

impl Plan {
    /// Begins a batch.
    pub(super) fn clear(&mut self) {
        self.words.clear();
        self.rounds.clear();
    }

    /// The rounds, in their order.
    pub(super) fn rounds(&self) -> &[Round] {
        &self.rounds
    }

    /// Adds a round of some parts of spans.
    pub(super) fn push_round(
        &mut self,
        parts: &[Part],
        tiling: Tiling,
        place: impl Fn(&Part) -> Place,
    ) {
        let mut round = Round { spans: self.section(), ..Round::default() };
        for part in parts {
            let Place { keys, values, layer_stride } = place(part);
            self.push(Span {
                keys,
                values,
                layer_stride: layer_stride as u64,
                start: part.position() as u32,
                tokens: part.tokens as u32,
                row: part.row as u32,
                before: round.tokens as u32,
            });
            round.tokens += part.tokens;
        }
        round.spans.len = parts.len();
        let Tiling { group, many_rows, few_rows } = tiling;
        // By the whole span: in how many parts it is read changes no bit.
        let few = |part: &Part| few_rows.is_some() && has_few_rows(group, part.span.tokens);
        round.many = self.push_tiles(parts, group, many_rows, |part| !few(part));
        round.few = self.push_tiles(parts, group, few_rows.unwrap_or(1), few);
        self.rounds.push(round);
    }

    /// Adds the tiles of the parts that are `chosen`; what sees the most keys comes first, as it
    /// takes longest.
    fn push_tiles(
        &mut self,
        parts: &[Part],
        group: usize,
        tile_rows: usize,
        chosen: impl Fn(&Part) -> bool,
    ) -> Section {
        let mut section = self.section();
        for (span, part) in parts.iter().enumerate().filter(|(_, part)| chosen(part)) {
            for row in (0..part.tokens * group).step_by(tile_rows).rev() {
                self.push(Tile { span: span as u32, row: row as u32 });
                section.len += 1;
            }
        }
        section
    }

    fn section(&self) -> Section {
        Section { at: self.words.len(), len: 0 }
    }

    fn push<T: Pod>(&mut self, value: T) {
        self.words.extend_from_slice(bytemuck::cast_slice(&[value]));
    }

    /// Brings the plan to the device. The layers of a group have the same in a forward: the first
    /// brings it whether the device has it or not, so that every forward submits the same.
    pub(super) fn upload(&mut self, cuda: &Cuda, first: bool) -> Result<DevicePtr> {
        if first || self.words != self.uploaded {
            self.uploaded.clear();
            cuda.upload(&self.words, &mut self.buffer)?;
            self.uploaded.clone_from(&self.words);
        }
        Ok(self.buffer.ptr())
    }

    /// The plan itself, in words of 32 bits.
    pub(super) fn words(&self) -> &[u32] {
        &self.words
    }
}
