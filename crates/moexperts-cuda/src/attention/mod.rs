//! Attention: many rows of queries in tiles, few rows with the keys in parts.
//!
//! A row is a (token, query head) pair of one key/value head; the rows of a span are in the order of
//! its tokens. Kernels read what varies from token to token, positions above all, from a plan on the
//! device, so that the launches of one decode step are those of the next.

mod cache;

use std::f32::consts::LOG2_E;

use bytemuck::{NoUninit, Pod, Zeroable};
use moexperts_core::{AttentionCall, AttentionSpec, Error, Result, checks};

pub use cache::KvCache;

use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    elementwise::VALUES,
    kernels::{ATTENTION, Kernel},
    memory::{Buffer, CudaTensor},
};

/// Up to so many rows, and for one token, a span's keys are divided among blocks too.
const FEW_ROWS: usize = 64;

/// `MIN_PART` and `MOST_PARTS` of attention.cu: keys of a part at least, and parts at most.
const MIN_PART: usize = 64;
const MOST_PARTS: usize = 64;

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
    padding: u32,
}

/// `Tile` of attention.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Tile {
    span: u32,
    row: u32,
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct AppendParams {
    keys: DevicePtr,
    values: DevicePtr,
    spans: DevicePtr,
    spans_len: u32,
    layer: u32,
    kv_heads: u32,
    head_dim: u32,
    head_stride: u32,
    padding: u32,
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct AttentionParams {
    queries: DevicePtr,
    spans: DevicePtr,
    tiles: DevicePtr,
    out: DevicePtr,
    parts: DevicePtr,
    layer: u32,
    kv_heads: u32,
    group: u32,
    head_dim: u32,
    head_stride: u32,
    window: u32,
    causal: u32,
    splits: u32,
    tile_rows: u32,
    scale: f32,
}

static APPEND: Kernel<AppendParams> = Kernel::new(&ATTENTION, "append", 256);
static MERGE_PARTS: Kernel<AttentionParams> = Kernel::new(&ATTENTION, "merge_parts", 128);

/// A kernel for tiles of `rows` rows, with shared memory for so many `keys` at a time, and heads of
/// up to `head_dim` values.
struct Attend {
    rows: usize,
    keys: usize,
    head_dim: usize,
    kernel: Kernel<AttentionParams>,
}

impl Attend {
    const fn many(rows: usize, keys: usize, head_dim: usize, name: &'static str) -> Self {
        let kernel = Kernel::new(&ATTENTION, name, 4 * rows as u32);
        Self { rows, keys, head_dim, kernel }
    }

    const fn few(rows: usize, head_dim: usize, name: &'static str) -> Self {
        // Four warps with two times eight keys.
        Self { rows, keys: 64, head_dim, kernel: Kernel::new(&ATTENTION, name, 128) }
    }
}

/// `attend_tile` of attention.cu, the fastest first.
static MANY: [Attend; 8] = [
    Attend::many(64, 64, 64, "attend_64_1"),
    Attend::many(64, 64, 128, "attend_64_2"),
    Attend::many(64, 64, 192, "attend_64_3"),
    Attend::many(64, 64, 256, "attend_64_4"),
    Attend::many(32, 32, 64, "attend_32_1"),
    Attend::many(32, 32, 128, "attend_32_2"),
    Attend::many(32, 32, 192, "attend_32_3"),
    Attend::many(32, 16, 256, "attend_32_4"),
];

/// `attend_few` of attention.cu, those for fewer rows first.
static FEW: [Attend; 5] = [
    Attend::few(4, 128, "attend_few_4_1"),
    Attend::few(8, 128, "attend_few_8_1"),
    Attend::few(16, 128, "attend_few_16_1"),
    Attend::few(4, 256, "attend_few_4_2"),
    Attend::few(8, 256, "attend_few_8_2"),
];

/// The kernel for tiles of many rows, and its shared memory.
fn many_kernel(cuda: &Cuda, head_dim: usize) -> Result<(&'static Attend, usize)> {
    let depth = head_dim.next_multiple_of(4);
    let there_is = cuda.properties().shared_bytes_per_block as usize;
    MANY.iter()
        .map(|attend| {
            let Attend { rows, keys, head_dim, .. } = *attend;
            let [queries, weights] = [rows * (depth + 4), rows * (keys + 4)];
            (attend, 4 * (queries + keys * (depth + 4) + keys * head_dim + weights))
        })
        .find(|&(attend, bytes)| head_dim <= attend.head_dim && bytes <= there_is)
        .ok_or_else(|| no_kernel(head_dim))
}

/// The kernel for tiles of up to so many rows, where that is few, and its shared memory.
fn few_kernel(rows: usize, head_dim: usize) -> Result<(&'static Attend, usize)> {
    // The narrowest that is wide enough; of these, the one with the fewest rows that are enough.
    let most = FEW.iter().map(|attend| attend.head_dim).find(|&most| head_dim <= most);
    let fits = |attend: &&Attend| Some(attend.head_dim) == most;
    let enough = FEW.iter().filter(fits).find(|attend| attend.rows >= rows);
    let attend = enough.or(FEW.iter().rfind(fits)).ok_or_else(|| no_kernel(head_dim))?;
    let (rows, depth) = (attend.rows, head_dim.next_multiple_of(4));
    // Each warp has the weights of eight keys besides.
    let weights = 4 * (8 * (rows + 4) + rows);
    Ok((attend, 4 * ((rows + attend.keys) * (depth + 4) + weights)))
}

fn no_kernel(head_dim: usize) -> Error {
    Cuda::problem(format!("attention with heads of {head_dim} values is not supported"))
}

/// What kernels are told of a batch.
#[derive(Default)]
struct Plan {
    /// Spans, then tiles of many rows, then tiles of few, as words of the device's memory.
    words: Vec<u32>,
    spans: usize,
    many: usize,
    few: usize,
}

impl Plan {
    fn clear(&mut self) {
        self.words.clear();
        (self.spans, self.many, self.few) = (0, 0, 0);
    }

    /// The next span; before any tile.
    fn push_span(&mut self, span: Span) {
        self.words.extend_from_slice(bytemuck::cast_slice(&[span]));
        self.spans += 1;
    }

    fn span(&self, index: usize) -> Span {
        let words = size_of::<Span>() / 4;
        bytemuck::pod_read_unaligned(bytemuck::cast_slice(
            &self.words[index * words..(index + 1) * words],
        ))
    }

    /// Tiles of so many rows each, for the spans of as many tokens as are `chosen`; what sees the
    /// most keys comes first, as it takes longest. How many tiles these are.
    fn push_tiles(
        &mut self,
        group: usize,
        tile_rows: usize,
        chosen: impl Fn(usize) -> bool,
    ) -> usize {
        let mut pushed = 0;
        for span in 0..self.spans {
            let tokens = self.span(span).tokens as usize;
            if !chosen(tokens) {
                continue;
            }
            for row in (0..tokens * group).step_by(tile_rows).rev() {
                let tile = Tile { span: span as u32, row: row as u32 };
                self.words.extend_from_slice(bytemuck::cast_slice(&[tile]));
                pushed += 1;
            }
        }
        pushed
    }

    /// Where the tiles of many and those of few rows are in a copy of the plan.
    fn tiles_at(&self, plan: DevicePtr) -> [DevicePtr; 2] {
        let many = plan.offset(self.spans * size_of::<Span>());
        [many, many.offset(self.many * size_of::<Tile>())]
    }
}

/// Room of one caller.
#[derive(Default)]
struct Room {
    plan: Plan,
    /// The plan that the device has.
    uploaded: Vec<u32>,
    buffer: Buffer,
    parts: Buffer,
}

impl Room {
    /// Brings the plan to the device. The layers of a forward have the same: the first brings it
    /// whether the device has it or not, so that every forward asks the device for the same.
    fn upload(&mut self, cuda: &Cuda, first: bool) -> Result<DevicePtr> {
        if first || self.plan.words != self.uploaded {
            self.uploaded.clear();
            cuda.upload(&self.plan.words, &mut self.buffer)?;
            self.uploaded.clone_from(&self.plan.words);
        }
        Ok(self.buffer.ptr())
    }
}

/// Keeps keys and values, then attends to what is kept.
pub(crate) fn causal(
    cuda: &Cuda,
    call: AttentionCall<'_, Cuda>,
    out: &mut CudaTensor,
) -> Result<()> {
    let AttentionCall { qkv: [q, k, v], cache, layer, batch, spec, scratch } = call;
    checks::attention([q, k, v].map(CudaTensor::shape), batch.tokens(), spec, cache.spec())?;
    for (index, &span) in batch.spans().iter().enumerate() {
        if let Err(error) = cache.append(cuda, layer, span) {
            // Nothing is written there.
            let before = &batch.spans()[..index];
            before.iter().rev().for_each(|&span| cache.forget(layer, span));
            return Err(error);
        }
    }
    out.reset(cuda, q.rows(), q.cols())?;
    if out.is_empty() || spec.kv_heads == 0 {
        return Ok(());
    }

    let AttentionSpec { kv_heads, head_dim, sliding_window, .. } = *spec;
    let group = spec.heads / kv_heads;
    let window = sliding_window.unwrap_or(usize::MAX);
    let is_few = |tokens: usize| tokens == 1 || tokens * group <= FEW_ROWS;
    let room = scratch.slot::<Room>();
    room.plan.clear();
    let (mut few_rows, mut few_keys) = (0, 0);
    for (span, rows) in batch.rows().filter(|(span, _)| span.tokens > 0) {
        let place = cache.place(span.sequence);
        room.plan.push_span(Span {
            keys: place.keys,
            values: place.values,
            layer_stride: place.layer_stride as u64,
            start: span.start as u32,
            tokens: span.tokens as u32,
            row: rows.start as u32,
            padding: 0,
        });
        if is_few(span.tokens) {
            few_rows = few_rows.max(span.tokens * group);
            // Not the positions that are held: they differ from step to step.
            few_keys = few_keys.max(place.capacity.min(window.saturating_add(span.tokens)));
        }
    }
    let (many, many_bytes) = many_kernel(cuda, head_dim)?;
    let (few, few_bytes) = few_kernel(few_rows, head_dim)?;
    room.plan.many = room.plan.push_tiles(group, many.rows, |tokens| !is_few(tokens));
    room.plan.few = room.plan.push_tiles(group, few.rows, is_few);

    let splits = few_keys.next_power_of_two().div_ceil(MIN_PART).min(MOST_PARTS);
    if splits > 1 {
        let values_of_row = head_dim.next_multiple_of(4) + 4;
        let rows = room.plan.few * kv_heads * splits * few.rows;
        room.parts.reserve(cuda, 4 * rows * values_of_row)?;
    }
    let spans = room.upload(cuda, layer == 0)?;
    let [many_tiles, few_tiles] = room.plan.tiles_at(spans);
    let head_stride = cache.head_stride();
    let append = AppendParams {
        keys: k.ptr(),
        values: v.ptr(),
        spans,
        spans_len: room.plan.spans as u32,
        layer: layer as u32,
        kv_heads: kv_heads as u32,
        head_dim: head_dim as u32,
        head_stride: head_stride as u32,
        padding: 0,
    };
    let width = kv_heads * head_stride;
    cuda.launch(&APPEND, [batch.tokens(), width.div_ceil(VALUES), 1], 0, append)?;

    let params = AttentionParams {
        layer: layer as u32,
        head_stride: head_stride as u32,
        window: u32::try_from(window).unwrap_or(u32::MAX),
        causal: 1,
        ..params(spec, q, spans, out)
    };
    let of_many = AttentionParams { tiles: many_tiles, tile_rows: many.rows as u32, ..params };
    cuda.launch(&many.kernel, [room.plan.many, kv_heads, 1], many_bytes, of_many)?;
    let of_few = AttentionParams {
        tiles: few_tiles,
        parts: room.parts.ptr(),
        splits: splits as u32,
        tile_rows: few.rows as u32,
        ..params
    };
    cuda.launch(&few.kernel, [room.plan.few, splits, kv_heads], few_bytes, of_few)?;
    if splits > 1 {
        cuda.launch(&MERGE_PARTS, [room.plan.few, kv_heads, few.rows], 0, of_few)?;
    }
    Ok(())
}

/// What all kernels over queries are told.
fn params(
    spec: &AttentionSpec,
    q: &CudaTensor,
    spans: DevicePtr,
    out: &CudaTensor,
) -> AttentionParams {
    AttentionParams {
        queries: q.ptr(),
        spans,
        tiles: DevicePtr(0),
        out: out.ptr(),
        parts: DevicePtr(0),
        layer: 0,
        kv_heads: spec.kv_heads as u32,
        group: (spec.heads / spec.kv_heads) as u32,
        head_dim: spec.head_dim as u32,
        head_stride: spec.head_dim as u32,
        window: u32::MAX,
        causal: 0,
        splits: 1,
        tile_rows: 0,
        scale: spec.scale * LOG2_E,
    }
}

/// Attends to all of a segment.
pub(crate) fn full(
    cuda: &Cuda,
    [q, k, v]: [&CudaTensor; 3],
    segments: &[usize],
    spec: &AttentionSpec,
    out: &mut CudaTensor,
) -> Result<()> {
    let AttentionSpec { heads, kv_heads, head_dim, .. } = *spec;
    checks::full_attention([q, k, v].map(CudaTensor::shape), segments, spec)?;
    out.reset(cuda, q.rows(), q.cols())?;
    if out.is_empty() {
        return Ok(());
    }
    let mut plan = Plan::default();
    let mut row = 0;
    for &tokens in segments.iter().filter(|&&tokens| tokens > 0) {
        let bytes = 4 * row * kv_heads * head_dim;
        plan.push_span(Span {
            keys: k.ptr().offset(bytes),
            values: v.ptr().offset(bytes),
            layer_stride: 0,
            start: 0,
            tokens: tokens as u32,
            row: row as u32,
            padding: 0,
        });
        row += tokens;
    }
    let (attend, shared_bytes) = many_kernel(cuda, head_dim)?;
    plan.many = plan.push_tiles(heads / kv_heads, attend.rows, |_| true);
    let spans = out.indices.upload(cuda, plan.words.iter().copied())?;
    let [tiles, _] = plan.tiles_at(spans);
    let params =
        AttentionParams { tiles, tile_rows: attend.rows as u32, ..params(spec, q, spans, out) };
    cuda.launch(&attend.kernel, [plan.many, kv_heads, 1], shared_bytes, params)
}
