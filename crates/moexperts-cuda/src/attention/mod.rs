//! Attention: many rows of queries in tiles, few rows with the keys in parts.
//!
//! A row is a (token, query head) pair of one key/value head; the rows of a span are in the order of
//! its tokens. `kv` keeps keys and values, `plan` describes a batch to kernels, `kernels` chooses them.

mod kernels;
pub(crate) mod kv;
mod plan;

use std::f32::consts::LOG2_E;

use moexperts_core::{
    AttentionCall, AttentionSpec, Batch, Result, Span, checks,
    positions::{Part, Rounds},
};

pub(crate) use self::kernels::check;
use self::{
    kernels::{
        APPEND, AppendParams, AttentionParams, ChosenKernel, MERGE_PARTS, part_values, splits,
    },
    kv::{KvGroup, KvLayer},
    plan::{Place, Plan, Round, Tiling, has_few_rows},
};
use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    elementwise::values::VALUES,
    runtime::{
        buffer::CudaBuffer,
        memory::{CudaTensor, CudaVector},
    },
};

/// What [`causal`] computes in.
#[derive(Default)]
struct AttentionScratch {
    rounds: Rounds,
    /// The plan of each group.
    plans: Vec<Plan>,
    /// Results over parts of the keys.
    parts: CudaBuffer,
}

/// Adds keys and values to the state, then attends to all that it holds.
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
        let AttentionScratch { rounds, plans, parts } = scratch.slot();
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
            plan.push_round(parts, kernels.tiling, |part| group.place(cuda, part.span.sequence));
        }
        parts.reserve(cuda, kernels.parts_bytes(spec, plan.rounds()))?;
        let plan_ptr = plan.upload(cuda, index == 0)?;
        let params = AttentionParams {
            sinks: CudaVector::ptr_or_null(sinks, cuda),
            parts: parts.ptr(cuda),
            ..params(cuda, spec, qkv[0], out)
        };
        let layer = AttendingLayer { group, index, qkv, params };
        for round in plan.rounds() {
            // SAFETY: `checks::attention` found that queries, keys and values have the shapes of `spec`
            // and a row for each token of the batch, and that the sinks fit. `begin` allocated memory for
            // the batch, `reset` and `reserve` for the results. The plan was made from this batch, and
            // its rounds hold no more positions than the group has slots.
            if let Err(error) = unsafe { kernels.launch(cuda, &layer, round, plan_ptr) } {
                group.forget(index, batch);
                return Err(error);
            }
        }
    }
    group.commit(index, batch);
    Ok(())
}

/// A layer that reads a batch.
struct AttendingLayer<'a> {
    group: &'a KvGroup,
    /// The index of the layer in its group.
    index: usize,
    qkv: [&'a CudaTensor; 3],
    params: AttentionParams,
}

/// The kernels over the queries of a batch.
struct Kernels {
    tiling: Tiling,
    many: ChosenKernel,
    few: ChosenKernel,
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
            // Slots instead of the positions held, which differ from step to step: a graph that was
            // captured could not be launched again.
            let slots = group.slots(span.sequence);
            few_keys = few_keys.max(slots.min(window.saturating_add(span.tokens)));
        }
        let (many, few) =
            (ChosenKernel::many(cuda, spec)?, ChosenKernel::few(cuda, spec, few_rows)?);
        let [many_rows, few_rows] = [many, few].map(|chosen| chosen.attend.rows);
        let tiling = Tiling { group: heads, many_rows, few_rows: Some(few_rows) };
        Ok(Self { tiling, many, few, splits: splits(few_keys) })
    }

    /// Bytes of the results over parts of the keys.
    fn parts_bytes(&self, spec: &AttentionSpec, rounds: &[Round]) -> usize {
        if self.splits <= 1 {
            return 0;
        }
        let tiles = rounds.iter().map(|round| round.few.len).max().unwrap_or(0);
        let rows = tiles * spec.kv_heads * self.splits * self.few.attend.rows;
        4 * rows * part_values(spec)
    }

    /// Adds the keys and values of a round to the state and attends to all that it holds.
    ///
    /// # Safety
    /// Queries, keys, values and sinks have the shapes that `params` gives, and the first three a row for
    /// each token of the round. `plan` is the address of the plan of `round`, which was made for these
    /// kernels; its spans are of the layer's group, which has memory for them. The results and `parts`
    /// have memory for the round.
    unsafe fn launch(
        &self,
        cuda: &Cuda,
        layer: &AttendingLayer<'_>,
        round: &Round,
        plan: DevicePtr,
    ) -> Result<()> {
        let AttendingLayer { group, index, qkv: [_, k, v], params } = *layer;
        let AttentionParams { kv_heads, head_dim, value_dim, .. } = params;
        let [key_stride, value_stride] = group.head_strides();
        let append = AppendParams {
            keys: k.ptr(cuda),
            values: v.ptr(cuda),
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
        let grid = [round.tokens, width.div_ceil(VALUES), 1];
        // SAFETY: `append` takes an `AppendParams`. It reads a row of keys and values for each token of
        // the round, and writes to the slots of its spans.
        unsafe { cuda.launch(&APPEND, grid, 0, append) }?;

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
            parts: DevicePtr::NULL,
            tile_rows: many.attend.rows as u32,
            ..params
        };
        let grid = [round.many.len, kv_heads, 1];
        // SAFETY: the kernel takes an `AttentionParams`; a block reads a tile of the plan, the rows of its
        // queries and the slots of its span, and has the shared memory that the choice computed.
        unsafe { cuda.launch(&many.attend.kernel, grid, many.shared_bytes, of_many) }?;
        let of_few = AttentionParams {
            tiles: round.few.ptr(plan),
            splits: splits as u32,
            tile_rows: few.attend.rows as u32,
            ..params
        };
        let grid = [round.few.len, splits, kv_heads];
        // SAFETY: as above, and results go to `parts`, which has rows for every part of every tile.
        unsafe { cuda.launch(&few.attend.kernel, grid, few.shared_bytes, of_few) }?;
        if splits > 1 {
            let grid = [round.few.len, kv_heads, few.attend.rows];
            // SAFETY: `merge_parts` takes an `AttentionParams` and reads the parts written just now.
            unsafe { cuda.launch(&MERGE_PARTS, grid, 0, of_few) }?;
        }
        Ok(())
    }
}

/// The parameters that all kernels over queries share.
fn params(cuda: &Cuda, spec: &AttentionSpec, q: &CudaTensor, out: &CudaTensor) -> AttentionParams {
    let window = spec.sliding_window.unwrap_or(usize::MAX);
    AttentionParams {
        queries: q.ptr(cuda),
        spans: DevicePtr::NULL,
        tiles: DevicePtr::NULL,
        sinks: DevicePtr::NULL,
        out: out.ptr(cuda),
        parts: DevicePtr::NULL,
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

/// Attends from each token of a segment to all of them.
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
    let ChosenKernel { attend, shared_bytes } = ChosenKernel::many(cuda, spec)?;
    let mut plan = Plan::default();
    let group = spec.heads / spec.kv_heads;
    let tiling = Tiling { group, many_rows: attend.rows, few_rows: None };
    plan.push_round(&parts, tiling, |part| Place {
        keys: k.ptr(cuda).offset(4 * part.row * k.cols()),
        values: v.ptr(cuda).offset(4 * part.row * v.cols()),
        layer_stride: 0,
    });
    let plan_ptr = out.indices.upload(cuda, plan.words().iter().copied())?;
    for round in plan.rounds() {
        let params = AttentionParams {
            spans: round.spans.ptr(plan_ptr),
            tiles: round.many.ptr(plan_ptr),
            tile_rows: attend.rows as u32,
            ..params(cuda, spec, q, out)
        };
        let grid = [round.many.len, spec.kv_heads, 1];
        // SAFETY: the kernel takes an `AttentionParams`. `checks::full_attention` found that queries, keys
        // and values have the shapes of `spec` and a row for each token of the segments, of which the
        // plan was made; `out` was given a row for each.
        unsafe { cuda.launch(&attend.kernel, grid, shared_bytes, params) }?;
    }
    Ok(())
}
