//! Causal attention over cached keys and values, a few queries of one key/value head at a time.

use moexperts_core::{AttentionSpec, Batch, Error, KvCacheSpec, Result, Span, Tensor};

use crate::{
    cpu::Cpu,
    product::{Inputs, Kernel, Weights},
    shared_rows::SharedRows,
};

/// Tokens whose queries pass over the keys together.
const QUERY_TOKENS: usize = 8;

/// Keys and values of all layers and sequences, in f32: a row a position, its heads side by side.
#[derive(Debug)]
pub struct KvCache {
    spec: KvCacheSpec,
    /// Index `layer * sequences + sequence`.
    entries: Vec<KeysValues>,
}

#[derive(Debug, Clone, Default)]
struct KeysValues {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl KvCache {
    pub(crate) fn new(spec: KvCacheSpec) -> Self {
        Self { spec, entries: vec![KeysValues::default(); spec.layers * spec.sequences] }
    }

    fn width(&self) -> usize {
        self.spec.kv_heads * self.spec.head_dim
    }

    /// Forgets what the span overwrites and appends its keys and values.
    fn append(&mut self, layer: usize, span: Span, keys: &[f32], values: &[f32]) -> Result<()> {
        let (width, sequences) = (self.width(), self.spec.sequences);
        if layer >= self.spec.layers {
            return Err(Error::OutOfRange { what: "layer", index: layer, limit: self.spec.layers });
        }
        if span.sequence >= sequences {
            let index = span.sequence;
            return Err(Error::OutOfRange { what: "sequence", index, limit: sequences });
        }
        let entry = &mut self.entries[layer * sequences + span.sequence];
        let held = entry.keys.len().checked_div(width).unwrap_or(0);
        if span.start > held {
            return Err(Error::OutOfRange { what: "position", index: span.start, limit: held + 1 });
        }
        for (cached, new) in [(&mut entry.keys, keys), (&mut entry.values, values)] {
            cached.truncate(span.start * width);
            cached.extend_from_slice(new);
        }
        Ok(())
    }
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

pub(crate) fn attention(
    cpu: &Cpu,
    [q, k, v]: [&Tensor; 3],
    cache: &mut KvCache,
    layer: usize,
    batch: &Batch,
    spec: &AttentionSpec,
) -> Result<Tensor> {
    let (width, tokens) = (cache.width(), batch.tokens());
    let shape = |what: &str, x: &Tensor, cols: usize| match [x.rows(), x.cols()] {
        got if got == [tokens, cols] => Ok(()),
        got => Err(Error::shape(what, [tokens, cols], got)),
    };
    shape("queries", q, spec.heads * spec.head_dim)?;
    shape("keys", k, width)?;
    shape("values", v, width)?;
    if spec.kv_heads * spec.head_dim != width || !spec.heads.is_multiple_of(spec.kv_heads.max(1)) {
        let got = [spec.kv_heads, spec.head_dim];
        return Err(Error::shape("heads", [cache.spec.kv_heads, cache.spec.head_dim], got));
    }
    let mut items = Vec::new();
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
    let mut out = Tensor::zeros(tokens, q.cols());
    let shared = SharedRows::new(out.data_mut(), q.cols());
    let cache = &*cache;
    cpu.threads().split(items.len(), 1, |range| {
        let mut scores = Vec::new();
        for item in &items[range] {
            let cached = &cache.entries[layer * cache.spec.sequences + item.span.sequence];
            attend(cpu, q.data(), cached, item, spec, &mut scores, &shared);
        }
    });
    Ok(out)
}

/// `out = softmax(scale · q · Kᵀ) · V` for the queries of one item.
fn attend(
    cpu: &Cpu,
    q: &[f32],
    cached: &KeysValues,
    item: &Item,
    spec: &AttentionSpec,
    scores: &mut Vec<f32>,
    out: &SharedRows<'_, f32>,
) {
    let (head_dim, width) = (spec.head_dim, spec.kv_heads * spec.head_dim);
    let group = spec.heads / spec.kv_heads;
    let position = item.span.start + item.first;
    let window = spec.sliding_window.unwrap_or(usize::MAX);
    // Keys some query of the item sees.
    let begin = (position + 1).saturating_sub(window);
    let end = position + item.tokens;
    let seen = end - begin;

    // Queries seen as rows of one head each.
    let rows: Vec<u32> = (0..item.tokens)
        .flat_map(|token| (0..group).map(move |head| (token, head)))
        .map(|(token, head)| ((item.row + token) * spec.heads + item.kv_head * group + head) as u32)
        .collect();
    scores.clear();
    scores.resize(rows.len() * seen, 0.0);
    let offset = begin * width + item.kv_head * head_dim;
    let keys = Weights::from_f32(&cached.keys[offset..], seen, head_dim, width);
    let kernel = Kernel::select(cpu.isa(), moexperts_core::DType::F32);
    kernel.dot(Inputs::F32(q), &rows, keys, 0..seen, scores);

    for (index, scores) in scores.chunks_exact_mut(seen).enumerate() {
        let (token, head) = (index / group, item.kv_head * group + index % group);
        let last = position + token;
        let visible = (last + 1).saturating_sub(window).max(begin)..last + 1;
        let scores = &mut scores[visible.start - begin..visible.end - begin];
        cpu.elementwise().softmax(scores, spec.scale);
        let cols = head * head_dim..(head + 1) * head_dim;
        // SAFETY: each head of each token belongs to one item.
        let out = unsafe { out.part(item.row + token, cols) };
        for (position, &weight) in visible.zip(scores.iter()) {
            let start = position * width + item.kv_head * head_dim;
            cpu.elementwise().add_scaled(out, &cached.values[start..start + head_dim], weight);
        }
    }
}
