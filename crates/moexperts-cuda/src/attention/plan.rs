//! The plan of a batch, in the device's memory: it holds what varies from token to token, positions above
//! all, so that the launches of one decode step are those of the next.

use bytemuck::NoUninit;
use moexperts_core::{Result, positions::Part};

use crate::{cuda::Cuda, driver::DevicePtr, runtime::buffer::CudaBuffer};

/// `Span` of attention.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct PlannedSpan {
    keys: DevicePtr,
    values: DevicePtr,
    layer_stride: u64,
    start: u32,
    tokens: u32,
    row: u32,
    before: u32,
}

/// `Tile` of attention.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct PlannedTile {
    span: u32,
    row: u32,
}

/// The addresses of the keys and values of a sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The keys of the first layer.
    pub(super) keys: DevicePtr,
    /// The values of the first layer.
    pub(super) values: DevicePtr,
    /// Values from a layer to the next.
    pub(super) layer_stride: usize,
}

/// Whether a span has few rows. Such a span has too few tiles for all multiprocessors, so its keys are
/// divided among blocks too.
pub(super) fn has_few_rows(group: usize, span_tokens: usize) -> bool {
    /// A tile of many rows has as many.
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
    /// Rows of a tile of a span that has few; `None` if all spans are treated as having many.
    pub(super) few_rows: Option<usize>,
}

/// A section of a plan: spans or tiles that are neighbours.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Section {
    /// The first word.
    at: usize,
    /// Number of spans or tiles.
    pub(super) len: usize,
}

impl Section {
    /// The address of the section in a copy of the plan on the device.
    pub(super) fn ptr(self, plan: DevicePtr) -> DevicePtr {
        plan.offset(4 * self.at)
    }
}

/// A part of a batch that is read at once.
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
    buffer: CudaBuffer,
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
            self.push(PlannedSpan {
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
        // Decided by the whole span, so that reading it in parts changes no bit.
        let few = |part: &Part| few_rows.is_some() && has_few_rows(group, part.span.tokens);
        round.many = self.push_tiles(parts, group, many_rows, |part| !few(part));
        round.few = self.push_tiles(parts, group, few_rows.unwrap_or(1), few);
        self.rounds.push(round);
    }

    /// Adds the tiles of the parts that are `chosen`. Those that see the most keys come first: they take
    /// longest, and started last they would run alone.
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
                self.push(PlannedTile { span: span as u32, row: row as u32 });
                section.len += 1;
            }
        }
        section
    }

    fn section(&self) -> Section {
        Section { at: self.words.len(), len: 0 }
    }

    fn push<T: NoUninit>(&mut self, value: T) {
        self.words.extend_from_slice(bytemuck::cast_slice(&[value]));
    }

    /// Uploads the plan. The layers of a group share it in a forward: the first uploads it even if the
    /// device has it already, so that every forward submits the same work.
    pub(super) fn upload(&mut self, cuda: &Cuda, first: bool) -> Result<DevicePtr> {
        if first || self.words != self.uploaded {
            self.uploaded.clear();
            self.buffer.upload(cuda, &self.words)?;
            self.uploaded.clone_from(&self.words);
        }
        Ok(self.buffer.ptr(cuda))
    }

    /// The plan itself, in words of 32 bits.
    pub(super) fn words(&self) -> &[u32] {
        &self.words
    }
}
