//! Attention over cached keys and values, a few queries of one key/value head at a time.

use std::ops::Range;

use moexperts_core::{
    AttentionCall, AttentionSpec, DType, Error, KvCacheSpec, Result, Span, Tensor, checks,
};

use crate::{
    cpu::{Cpu, MIN_MULTIPLICATIONS},
    product::{Inputs, PANEL, Weights},
    shared_rows::SharedRows,
    threads::PerThread,
};

/// Tokens whose queries pass over the keys together.
const QUERY_TOKENS: usize = 16;

/// Keys and values of all layers and sequences, in f32, each head's apart.
#[derive(Debug)]
pub struct KvCache {
    spec: KvCacheSpec,
    /// Index `(layer * sequences + sequence) * kv_heads + head`.
    heads: Vec<KeysValues>,
}

/// Keys and values of one head, [positions, head_dim].
#[derive(Debug, Clone, Default)]
struct KeysValues {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl KvCache {
    pub(crate) fn new(spec: KvCacheSpec) -> Self {
        let heads = spec.layers * spec.sequences * spec.kv_heads;
        Self { spec, heads: vec![KeysValues::default(); heads] }
    }

    fn width(&self) -> usize {
        self.spec.kv_heads * self.spec.head_dim
    }

    /// Room for so many positions of a sequence.
    pub(crate) fn reserve(&mut self, sequence: usize, positions: usize) -> Result<()> {
        let KvCacheSpec { layers, sequences, head_dim, .. } = self.spec;
        checks::indices("sequence", [sequence], sequences)?;
        let values = positions.saturating_mul(head_dim);
        for layer in 0..layers {
            let heads = self.range(layer, sequence);
            for head in &mut self.heads[heads] {
                for cached in [&mut head.keys, &mut head.values] {
                    let more = values.saturating_sub(cached.len());
                    cached.try_reserve(more).map_err(|error| Error::Device {
                        device: <Cpu as moexperts_core::Device>::NAME,
                        problem: format!("no memory for {positions} positions: {error}"),
                    })?;
                }
            }
        }
        Ok(())
    }

    /// The heads of one sequence in one layer.
    fn range(&self, layer: usize, sequence: usize) -> Range<usize> {
        let first = (layer * self.spec.sequences + sequence) * self.spec.kv_heads;
        first..first + self.spec.kv_heads
    }

    /// Forgets what the span overwrites and appends its keys and values, [tokens, heads, head_dim].
    fn append(&mut self, layer: usize, span: Span, keys: &[f32], values: &[f32]) -> Result<()> {
        let KvCacheSpec { layers, sequences, head_dim, .. } = self.spec;
        checks::indices("layer", [layer], layers)?;
        checks::indices("sequence", [span.sequence], sequences)?;
        let (width, heads) = (self.width(), self.range(layer, span.sequence));
        let heads = &mut self.heads[heads];
        let cached = heads.first().map_or(0, |head| head.keys.len());
        let held = cached.checked_div(head_dim).unwrap_or(0);
        checks::position(span.start, held)?;
        for (index, head) in heads.iter_mut().enumerate() {
            for (cached, new) in [(&mut head.keys, keys), (&mut head.values, values)] {
                cached.truncate(span.start * head_dim);
                for row in new.chunks_exact(width.max(1)) {
                    cached.extend_from_slice(&row[index * head_dim..(index + 1) * head_dim]);
                }
            }
        }
        Ok(())
    }
}

/// Room of one caller.
#[derive(Default)]
struct Room {
    items: Vec<Item>,
    threads: PerThread<ThreadRoom>,
}

/// Room of one thread.
#[derive(Default)]
struct ThreadRoom {
    rows: Vec<u32>,
    scores: Vec<f32>,
    sums: Vec<f32>,
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

impl ThreadRoom {
    /// Room for so many rows, scores and sums.
    fn reserve(&mut self, [rows, scores, sums]: [usize; 3]) {
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
    let AttentionCall { qkv, cache, layer, batch, spec, scratch } = call;
    let (width, tokens) = (cache.width(), batch.tokens());
    checks::attention(qkv.map(Tensor::shape), tokens, spec, &cache.spec)?;
    let [q, k, v] = qkv;
    let Room { items, threads } = scratch.slot::<Room>();
    items.clear();
    for (span, rows) in batch.rows() {
        let cells = rows.start * width..rows.end * width;
        cache.append(layer, span, &k.data()[cells.clone()], &v.data()[cells])?;
        for first in (0..span.tokens).step_by(QUERY_TOKENS) {
            let tokens = QUERY_TOKENS.min(span.tokens - first);
            let row = rows.start + first;
            let item = |kv_head| Item { span, first, row, tokens, kv_head };
            items.extend((0..spec.kv_heads).map(item));
        }
    }
    out.reset(tokens, q.cols());
    let out = SharedRows::new(out.data_mut(), q.cols());
    let (cache, items) = (&*cache, &*items);
    // Which thread takes which item is chance: each has room for any of them, and for one token at
    // every position the cache has room for.
    let group = spec.heads / spec.kv_heads.max(1);
    let mut most = [0; 3];
    for item in items.iter().filter(|item| item.kv_head == 0) {
        let cached = &cache.heads[cache.range(layer, item.span.sequence).start].keys;
        let positions = cached.capacity().checked_div(spec.head_dim).unwrap_or(0);
        let positions = positions.min(spec.sliding_window.unwrap_or(usize::MAX));
        let rows = item.tokens * group;
        let scores = (rows * item.seen(spec).len()).max(group * positions);
        let needed = [rows, scores, rows * spec.head_dim];
        most = std::array::from_fn(|index| needed[index].max(most[index]));
    }
    threads.all(cpu.thread_count()).iter_mut().for_each(|room| room.reserve(most));
    let rooms = threads.rooms(cpu.threads());
    // A part should be worth a thread's start.
    let multiplications = most[1] * 2 * spec.head_dim;
    let grain = MIN_MULTIPLICATIONS.div_ceil(multiplications.max(1));
    cpu.threads().split(items.len(), grain, |range| {
        // SAFETY: once a part, which does nothing else.
        let room = unsafe { rooms.own() };
        for item in &items[range] {
            let head = cache.range(layer, item.span.sequence).start + item.kv_head;
            attend(cpu, q.data(), &cache.heads[head], item, spec, room, &out);
        }
    });
    Ok(())
}

/// `out = softmax(scale · q · Kᵀ) · V` for the queries of one item.
fn attend(
    cpu: &Cpu,
    q: &[f32],
    cached: &KeysValues,
    item: &Item,
    spec: &AttentionSpec,
    ThreadRoom { rows, scores, sums }: &mut ThreadRoom,
    out: &SharedRows<'_, f32>,
) {
    let head_dim = spec.head_dim;
    let group = spec.heads / spec.kv_heads;
    let position = item.span.start + item.first;
    let window = spec.sliding_window.unwrap_or(usize::MAX);
    let Range { start: begin, end } = item.seen(spec);
    let seen = end - begin;

    // Queries seen as rows of one head each.
    rows.clear();
    for token in 0..item.tokens {
        let first = (item.row + token) * spec.heads + item.kv_head * group;
        rows.extend((first..first + group).map(|row| row as u32));
    }
    scores.clear();
    scores.resize(rows.len() * seen, 0.0);
    let keys = Weights::from_f32(&cached.keys[begin * head_dim..], seen, head_dim, head_dim);
    let kernel = cpu.kernel(DType::F32);
    kernel.dot(Inputs::F32(q), rows, keys, 0..seen, None, scores);

    for (index, scores) in scores.chunks_exact_mut(seen).enumerate() {
        let last = position + index / group;
        let visible = (last + 1).saturating_sub(window).max(begin) - begin..last + 1 - begin;
        cpu.elementwise().softmax(&mut scores[visible.clone()], spec.scale);
        // What a query does not see has no weight.
        scores[..visible.start].fill(0.0);
        scores[visible.end..].fill(0.0);
    }

    // Sixteen columns of the values are a panel as they lie, the scores its weights.
    let values = &cached.values[begin * head_dim..];
    let panels = head_dim / PANEL;
    sums.clear();
    sums.resize(panels * rows.len() * PANEL, 0.0);
    let weights = Weights::from_f32(scores, rows.len(), seen, seen);
    kernel.lanes_in_rows(values, panels, head_dim, weights, sums);
    for (index, scores) in scores.chunks_exact(seen).enumerate() {
        let (token, head) = (index / group, item.kv_head * group + index % group);
        // SAFETY: each head of each token belongs to one item.
        let out = unsafe { out.part(item.row + token, head * head_dim..(head + 1) * head_dim) };
        let (whole, rest) = out.split_at_mut(panels * PANEL);
        for (panel, out) in whole.chunks_exact_mut(PANEL).enumerate() {
            out.copy_from_slice(&sums[(panel * rows.len() + index) * PANEL..][..PANEL]);
        }
        if !rest.is_empty() {
            rest.fill(0.0);
            for (values, &weight) in values.chunks_exact(head_dim).zip(scores) {
                cpu.elementwise().add_scaled(rest, &values[panels * PANEL..], weight);
            }
        }
    }
}
