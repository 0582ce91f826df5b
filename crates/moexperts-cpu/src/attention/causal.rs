//! Attention over keys and values that are kept, a few queries of one key/value head at a time.

use std::ops::Range;

use moexperts_core::{
    AttentionCall, AttentionSpec, DType, Result, Span, Tensor, checks,
    positions::{Part, Rounds},
};

use super::kv::{KvState, QUERY_TOKENS};
use crate::{
    cpu::{Cpu, MIN_MULTIPLICATIONS},
    product::{Inputs, PANEL, Weights},
    shared_rows::SharedRows,
    threads::PerThread,
};

/// Buffers of one caller.
#[derive(Default)]
struct Workspace {
    rounds: Rounds,
    items: Vec<Item>,
    threads: PerThread<ThreadWorkspace>,
}

/// Buffers of one thread.
#[derive(Default)]
struct ThreadWorkspace {
    rows: Vec<u32>,
    scores: Vec<f32>,
    sums: Vec<f32>,
}

/// How many values the buffers of a thread hold.
#[derive(Clone, Copy, Default)]
struct Lengths {
    rows: usize,
    scores: usize,
    sums: usize,
}

/// A few query tokens of one sequence and one key/value head.
struct Item {
    span: Span,
    /// First query token, counted in the span.
    first: usize,
    /// Row of that token in the batch.
    row: usize,
    tokens: usize,
    kv_head: usize,
}

impl Item {
    /// Keys some query of the item sees.
    fn seen(&self, spec: &AttentionSpec) -> Range<usize> {
        let position = self.span.start + self.first;
        let window = spec.sliding_window.unwrap_or(usize::MAX);
        (position + 1).saturating_sub(window)..position + self.tokens
    }
}

impl ThreadWorkspace {
    /// Empties the buffers, which then hold that many values without growing.
    fn reserve(&mut self, Lengths { rows, scores, sums }: Lengths) {
        fn reserve<T>(buffer: &mut Vec<T>, len: usize) {
            buffer.clear();
            buffer.reserve(len);
        }
        reserve(&mut self.rows, rows);
        reserve(&mut self.scores, scores);
        reserve(&mut self.sums, sums);
    }
}

pub(crate) fn causal(cpu: &Cpu, call: AttentionCall<'_, Cpu>, out: &mut Tensor) -> Result<()> {
    let AttentionCall { qkv, sinks, state, layer, batch, spec, scratch } = call;
    let kept = state.spec(layer)?;
    checks::attention(qkv.map(Tensor::shape), batch.tokens(), spec, sinks.map(Vec::len), kept)?;
    let kv = state.kv(layer).expect("the check found a state of keys and values");
    kv.begin(layer, batch)?;
    let [q, k, v] = qkv;
    out.reset(batch.tokens(), spec.heads * spec.value_dim);
    let cols = out.cols();
    let out = SharedRows::new(out.data_mut(), cols);
    let Workspace { rounds, items, threads } = scratch.slot::<Workspace>();
    rounds.begin(batch);
    loop {
        let most = kv.most_positions();
        let parts = rounds.next(batch, kv.limits(), |_| most);
        if parts.is_empty() {
            return Ok(());
        }
        items.clear();
        for part in parts {
            let rows = part.row..part.row + part.tokens;
            let of_rows = |x: &'_ Tensor| rows.start * x.cols()..rows.end * x.cols();
            kv.append(part, &k.data()[of_rows(k)], &v.data()[of_rows(v)]);
            push_items(items, part, spec.kv_heads);
        }
        let round = Round { q: q.data(), kv, spec, sinks: sinks.map(Vec::as_slice), out: &out };
        attend_all(cpu, &round, items, threads);
    }
}

/// Cuts a part into items.
fn push_items(items: &mut Vec<Item>, part: &Part, kv_heads: usize) {
    for first in (0..part.tokens).step_by(QUERY_TOKENS) {
        let tokens = QUERY_TOKENS.min(part.tokens - first);
        let (first, row) = (part.first + first, part.row + first);
        let item = |kv_head| Item { span: part.span, first, row, tokens, kv_head };
        items.extend((0..kv_heads).map(item));
    }
}

/// The data that all items of a round share.
struct Round<'a> {
    /// The queries, [tokens, heads, head_dim].
    q: &'a [f32],
    kv: &'a KvState,
    spec: &'a AttentionSpec,
    sinks: Option<&'a [f32]>,
    out: &'a SharedRows<'a, f32>,
}

/// Attends to what the items see.
fn attend_all(
    cpu: &Cpu,
    round: &Round<'_>,
    items: &[Item],
    threads: &mut PerThread<ThreadWorkspace>,
) {
    let Round { kv, spec, .. } = round;
    // Items are claimed dynamically: each thread has memory for any of them, and for one token at
    // every position that memory is allocated for.
    let group = spec.heads / spec.kv_heads.max(1);
    let mut most = Lengths::default();
    for item in items.iter().filter(|item| item.kv_head == 0) {
        let positions = kv.capacity(item.span.sequence);
        let positions = positions.min(spec.sliding_window.unwrap_or(usize::MAX));
        let rows = item.tokens * group;
        let scores = (rows * item.seen(spec).len()).max(group * positions);
        most = Lengths {
            rows: rows.max(most.rows),
            scores: scores.max(most.scores),
            sums: (rows * spec.value_dim).max(most.sums),
        };
    }
    threads.all(cpu.thread_count()).iter_mut().for_each(|workspace| workspace.reserve(most));
    let workspaces = threads.of(cpu.threads());
    // A part should be worth a thread's start.
    let multiplications = most.scores * (spec.head_dim + spec.value_dim);
    let grain = MIN_MULTIPLICATIONS.div_ceil(multiplications.max(1));
    cpu.threads().split(items.len(), grain, |range| {
        // SAFETY: once in this part of a `split`, which starts no other parallel work.
        let workspace = unsafe { workspaces.own() };
        for item in &items[range] {
            attend(cpu, round, item, workspace);
        }
    });
}

/// `out = softmax(scale · q · Kᵀ) · V` for the queries of one item.
fn attend(
    cpu: &Cpu,
    &Round { q, kv, spec, sinks, out }: &Round<'_>,
    item: &Item,
    ThreadWorkspace { rows, scores, sums }: &mut ThreadWorkspace,
) {
    let AttentionSpec { head_dim, value_dim, .. } = *spec;
    let group = spec.heads / spec.kv_heads;
    let position = item.span.start + item.first;
    let window = spec.sliding_window.unwrap_or(usize::MAX);
    let Range { start: begin, end } = item.seen(spec);
    let seen = end - begin;
    let [keys, values] = kv.seen(item.span.sequence, item.kv_head, &(begin..end));

    // Queries seen as rows of one head each.
    rows.clear();
    for token in 0..item.tokens {
        let first = (item.row + token) * spec.heads + item.kv_head * group;
        rows.extend((first..first + group).map(|row| row as u32));
    }
    scores.clear();
    scores.resize(rows.len() * seen, 0.0);
    let keys = Weights::from_f32(keys, seen, head_dim, head_dim);
    let kernel = cpu.kernel(DType::F32);
    kernel.dot(Inputs::F32(q), rows, keys, 0..seen, None, scores);

    for (index, scores) in scores.chunks_exact_mut(seen).enumerate() {
        let last = position + index / group;
        let visible = (last + 1).saturating_sub(window).max(begin) - begin..last + 1 - begin;
        match sinks {
            None => cpu.elementwise().softmax(&mut scores[visible.clone()], spec.scale),
            Some(sinks) => {
                let sink = sinks[item.kv_head * group + index % group];
                let scores = &mut scores[visible.clone()];
                cpu.elementwise().softmax_with_sink(scores, spec.scale, sink);
            }
        }
        // Positions that a query does not see have no weight.
        scores[..visible.start].fill(0.0);
        scores[visible.end..].fill(0.0);
    }

    // Sixteen columns of the values are a panel as they lie, the scores its weights.
    let panels = value_dim / PANEL;
    sums.clear();
    sums.resize(panels * rows.len() * PANEL, 0.0);
    let weights = Weights::from_f32(scores, rows.len(), seen, seen);
    kernel.lanes_in_rows(values, panels, value_dim, weights, sums);
    for (index, scores) in scores.chunks_exact(seen).enumerate() {
        let (token, head) = (index / group, item.kv_head * group + index % group);
        // SAFETY: each head of each token belongs to one item, and each item to one part of a
        // `split`.
        let out = unsafe { out.part(item.row + token, head * value_dim..(head + 1) * value_dim) };
        let (whole, rest) = out.split_at_mut(panels * PANEL);
        for (panel, out) in whole.chunks_exact_mut(PANEL).enumerate() {
            out.copy_from_slice(&sums[(panel * rows.len() + index) * PANEL..][..PANEL]);
        }
        if !rest.is_empty() {
            rest.fill(0.0);
            for (values, &weight) in values.chunks_exact(value_dim).zip(scores) {
                cpu.elementwise().add_scaled(rest, &values[panels * PANEL..], weight);
            }
        }
    }
}
