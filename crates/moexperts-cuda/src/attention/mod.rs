//! Attention: many rows of queries in tiles, few rows with the keys in parts.
//!
//! A row is a (token, query head) pair of one key/value head; the rows of a span are in the order of
//! its tokens. `kv` is where keys and values are kept, `plan` what kernels are told of a batch,
//! `kernels` which of them run.

mod kernels;
mod kv;
mod plan;

use std::f32::consts::LOG2_E;

use moexperts_core::{
    AttentionCall, AttentionSpec, Batch, Result, Span, checks,
    positions::{Part, Rounds},
};

pub(crate) use self::{
    kernels::check,
    kv::{KvGroup, KvLayer},
};
use self::{
    kernels::{APPEND, AppendParams, AttentionParams, Chosen, MERGE_PARTS, part_values, splits},
    plan::{Place, Plan, Round, Tiling, has_few_rows},
};
use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    elementwise::values::VALUES,
    runtime::memory::{Buffer, CudaTensor, CudaVector},
};

/// What a caller keeps.
#[derive(Default)]
struct Workspace {
    rounds: Rounds,
    /// By group.
    plans: Vec<Plan>,
    parts: Buffer,
}

/// Keeps keys and values, then attends to what is kept.
pub(crate) fn causal(
    cuda: &Cuda,
    call: AttentionCall<'_, Cuda>,
    out: &mut CudaTensor,
) -> Result<()> {
    let AttentionCall { qkv, sinks, state, layer, batch, spec, scratch } = call;
    let (shapes, sinks_len) = (qkv.map(CudaTensor::shape), sinks.map(CudaVector::len));
    checks::attention(shapes, batch.tokens(), spec, sinks_len, state.spec(layer)?)?;
    let KvLayer { group_index, group, index } =
        state.kv(layer).expect("the check found a state of keys and values");
    group.begin(cuda, [layer, index], batch)?;
    out.reset(cuda, batch.tokens(), spec.heads * spec.value_dim)?;
    if !out.is_empty() && spec.kv_heads > 0 {
        let Workspace { rounds, plans, parts } = scratch.slot::<Workspace>();
        plans.resize_with(plans.len().max(group_index + 1), Plan::default);
        let (kernels, plan) = (Kernels::new(cuda, group, batch, spec)?, &mut plans[group_index]);
        plan.clear();
        rounds.begin(batch);
        loop {
            let limits = group.limits();
            let parts = rounds.next(batch, limits, |sequence| group.capacity(sequence));
            if parts.is_empty() {
                break;
            }
            plan.push_round(parts, kernels.tiling, |part| group.place(part.span.sequence));
        }
        parts.reserve(cuda, kernels.parts_bytes(spec, plan.rounds()))?;
        let plan_ptr = plan.upload(cuda, index == 0)?;
        let params = AttentionParams {
            sinks: sinks.map_or(DevicePtr(0), CudaVector::ptr),
            parts: parts.ptr(),
            ..params(spec, qkv[0], out)
        };
        let layer = Layer { group, index, qkv, params };
        for round in plan.rounds() {
            if let Err(error) = kernels.launch(cuda, &layer, round, plan_ptr) {
                group.forget(index, batch);
                return Err(error);
            }
        }
    }
    group.commit(index, batch);
    Ok(())
}

/// A layer that reads a batch.
struct Layer<'a> {
    group: &'a KvGroup,
    /// Among those of the group.
    index: usize,
    qkv: [&'a CudaTensor; 3],
    params: AttentionParams,
}

/// The kernels over the queries of a batch.
struct Kernels {
    tiling: Tiling,
    many: Chosen,
    few: Chosen,
    splits: usize,
}

impl Kernels {
    fn new(cuda: &Cuda, group: &KvGroup, batch: &Batch, spec: &AttentionSpec) -> Result<Self> {
        let heads = spec.heads / spec.kv_heads;
        let window = spec.sliding_window.unwrap_or(usize::MAX);
        let (mut few_rows, mut few_keys) = (0, 0);
        let is_few = |span: &&Span| span.tokens > 0 && has_few_rows(heads, span.tokens);
        for span in batch.spans().iter().filter(is_few) {
            few_rows = few_rows.max(span.tokens * heads);
            // Not the positions that are held: they differ from step to step.
            let slots = group.slots(span.sequence);
            few_keys = few_keys.max(slots.min(window.saturating_add(span.tokens)));
        }
        let (many, few) = (Chosen::many(cuda, spec)?, Chosen::few(cuda, spec, few_rows)?);
        let [many_rows, few_rows] = [many, few].map(|chosen| chosen.attend.rows);
        let tiling = Tiling { group: heads, many_rows, few_rows: Some(few_rows) };
        Ok(Self { tiling, many, few, splits: splits(few_keys) })
    }

    /// Memory for the results over parts of the keys.
    fn parts_bytes(&self, spec: &AttentionSpec, rounds: &[Round]) -> usize {
        if self.splits <= 1 {
            return 0;
        }
        let tiles = rounds.iter().map(|round| round.few.len).max().unwrap_or(0);
        let rows = tiles * spec.kv_heads * self.splits * self.few.attend.rows;
        4 * rows * part_values(spec)
    }

    /// Keeps the keys and values of a round and attends to what is kept.
    fn launch(&self, cuda: &Cuda, layer: &Layer<'_>, round: &Round, plan: DevicePtr) -> Result<()> {
        let Layer { group, index, qkv: [_, k, v], params } = *layer;
        let AttentionParams { kv_heads, head_dim, value_dim, .. } = params;
        let [key_stride, value_stride] = group.head_strides();
        let append = AppendParams {
            keys: k.ptr(),
            values: v.ptr(),
            spans: round.spans.ptr(plan),
            spans_len: round.spans.len as u32,
            layer: index as u32,
            kv_heads,
            head_dim,
            value_dim,
            key_stride: key_stride as u32,
            value_stride: value_stride as u32,
            mask: group.mask(),
        };
        let kv_heads = kv_heads as usize;
        let width = kv_heads * key_stride.max(value_stride);
        cuda.launch(&APPEND, [round.tokens, width.div_ceil(VALUES), 1], 0, append)?;

        let params = AttentionParams {
            spans: append.spans,
            layer: append.layer,
            key_stride: append.key_stride,
            value_stride: append.value_stride,
            mask: append.mask,
            causal: 1,
            ..params
        };
        let Self { many, few, splits, .. } = *self;
        let of_many = AttentionParams {
            tiles: round.many.ptr(plan),
            parts: DevicePtr(0),
            tile_rows: many.attend.rows as u32,
            ..params
        };
        let grid = [round.many.len, kv_heads, 1];
        cuda.launch(&many.attend.kernel, grid, many.shared_bytes, of_many)?;
        let of_few = AttentionParams {
            tiles: round.few.ptr(plan),
            splits: splits as u32,
            tile_rows: few.attend.rows as u32,
            ..params
        };
        let grid = [round.few.len, splits, kv_heads];
        cuda.launch(&few.attend.kernel, grid, few.shared_bytes, of_few)?;
        if splits > 1 {
            let grid = [round.few.len, kv_heads, few.attend.rows];
            cuda.launch(&MERGE_PARTS, grid, 0, of_few)?;
        }
        Ok(())
    }
}

/// What all kernels over queries are told.
fn params(spec: &AttentionSpec, q: &CudaTensor, out: &CudaTensor) -> AttentionParams {
    let window = spec.sliding_window.unwrap_or(usize::MAX);
    AttentionParams {
        queries: q.ptr(),
        spans: DevicePtr(0),
        tiles: DevicePtr(0),
        sinks: DevicePtr(0),
        out: out.ptr(),
        parts: DevicePtr(0),
        layer: 0,
        kv_heads: spec.kv_heads as u32,
        group: (spec.heads / spec.kv_heads) as u32,
        head_dim: spec.head_dim as u32,
        value_dim: spec.value_dim as u32,
        key_stride: spec.head_dim as u32,
        value_stride: spec.value_dim as u32,
        mask: u32::MAX,
        window: u32::try_from(window).unwrap_or(u32::MAX),
        causal: 0,
        splits: 1,
        tile_rows: 0,
        scale: spec.scale * LOG2_E,
        padding: 0,
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
    checks::full_attention([q, k, v].map(CudaTensor::shape), segments, spec)?;
    out.reset(cuda, q.rows(), spec.heads * spec.value_dim)?;
    if out.is_empty() {
        return Ok(());
    }
    let mut parts = Vec::new();
    let mut row = 0;
    for (sequence, &tokens) in segments.iter().enumerate().filter(|&(_, &tokens)| tokens > 0) {
        let span = Span { sequence, start: 0, tokens };
        parts.push(Part { span, first: 0, tokens, row, seen_from: 0 });
        row += tokens;
    }
    let Chosen { attend, shared_bytes } = Chosen::many(cuda, spec)?;
    let mut plan = Plan::default();
    let group = spec.heads / spec.kv_heads;
    let tiling = Tiling { group, many_rows: attend.rows, few_rows: None };
    plan.push_round(&parts, tiling, |part| Place {
        keys: k.ptr().offset(4 * part.row * k.cols()),
        values: v.ptr().offset(4 * part.row * v.cols()),
        layer_stride: 0,
    });
    let plan_ptr = out.indices.upload(cuda, plan.words().iter().copied())?;
    for round in plan.rounds() {
        let params = AttentionParams {
            spans: round.spans.ptr(plan_ptr),
            tiles: round.many.ptr(plan_ptr),
            tile_rows: attend.rows as u32,
            ..params(spec, q, out)
        };
        let grid = [round.many.len, spec.kv_heads, 1];
        cuda.launch(&attend.kernel, grid, shared_bytes, params)?;
    }
    Ok(())
}
