//! Attention of every token over all tokens of its segment, blocks of queries over blocks of keys.
//!
//! Queries are lanes: sixteen of them are a panel for the products with the keys, and the weights
//! that come of it, a column a key, are the panels for the products with the values. The softmax
//! runs along with the blocks, so the scores of a segment never exist at once.

use std::ops::Range;

use moexperts_core::{AttentionSpec, DType, Result, Tensor, checks};

use crate::{
    cpu::Cpu,
    elementwise::RunningSoftmax,
    product::{Inputs, PANEL, Weights, pack},
    shared_rows::SharedRows,
    tuning::MAX_BLOCK_PANELS,
};

/// Queries that pass over the keys together.
const QUERIES: usize = MAX_BLOCK_PANELS * PANEL;

/// Keys of a block: with their scores, they stay in the second-level cache.
const KEYS: usize = 256;

/// Queries of one head in one segment.
struct Item<'a> {
    segment: &'a Range<usize>,
    queries: Range<usize>,
    head: usize,
}

/// Buffers of one thread.
#[derive(Default)]
struct Workspace {
    queries: Vec<f32>,
    scores: Vec<f32>,
    product: Vec<f32>,
    sums: Vec<f32>,
}

pub(crate) fn full(
    cpu: &Cpu,
    [q, k, v]: [&Tensor; 3],
    segments: &[usize],
    spec: &AttentionSpec,
    out: &mut Tensor,
) -> Result<()> {
    checks::full_attention([q, k, v].map(Tensor::shape), segments, spec)?;
    let segments: Vec<Range<usize>> = segments
        .iter()
        .scan(0, |next, &tokens| {
            let segment = *next..*next + tokens;
            *next = segment.end;
            Some(segment)
        })
        .collect();
    let mut items = Vec::new();
    for segment in &segments {
        for head in 0..spec.heads {
            for first in segment.clone().step_by(QUERIES) {
                let queries = first..(first + QUERIES).min(segment.end);
                items.push(Item { segment, queries, head });
            }
        }
    }
    let values = by_columns(cpu, v, &segments);
    let cols = spec.heads * spec.value_dim;
    out.reset(q.rows(), cols);
    let shared = SharedRows::new(out.data_mut(), cols);
    cpu.threads().split(items.len(), 1, |range| {
        let mut workspace = Workspace::default();
        for item in &items[range] {
            attend(cpu, [q, k], &values, item, spec, &mut workspace, &shared);
        }
    });
    Ok(())
}

/// Each segment's rows of `v` [T, C], as columns: [C, tokens], one segment after another.
fn by_columns(cpu: &Cpu, v: &Tensor, segments: &[Range<usize>]) -> Vec<f32> {
    let (rows, cols) = (v.rows(), v.cols());
    let mut columns = vec![0.0; rows * cols];
    for segment in segments {
        let (start, tokens) = (segment.start, segment.len());
        let columns = &mut columns[start * cols..segment.end * cols];
        let shared = SharedRows::new(columns, tokens);
        cpu.threads().split(tokens.div_ceil(PANEL), 1, |blocks| {
            for first in blocks.map(|block| block * PANEL) {
                let block = first..(first + PANEL).min(tokens);
                for column in 0..cols {
                    // SAFETY: `split` gives each block of tokens to one part.
                    let out = unsafe { shared.part(column, block.clone()) };
                    for (out, token) in out.iter_mut().zip(block.clone()) {
                        *out = v.data()[(start + token) * cols + column];
                    }
                }
            }
        });
    }
    columns
}

/// `out = softmax(scale · q · Kᵀ) · V` for the queries of one item.
fn attend(
    cpu: &Cpu,
    [q, k]: [&Tensor; 2],
    values: &[f32],
    item: &Item<'_>,
    spec: &AttentionSpec,
    workspace: &mut Workspace,
    out: &SharedRows<'_, f32>,
) {
    let AttentionSpec { heads, kv_heads, head_dim, value_dim, scale, .. } = *spec;
    let Item { segment, queries, head } = item;
    let (width, kv_head) = (k.cols(), head / (heads / kv_heads));
    let keys = &k.data()[segment.start * width + kv_head * head_dim..];
    let keys = Weights::from_f32(keys, segment.len(), head_dim, width);
    let columns_before = kv_head * value_dim * segment.len();
    let values = &values[segment.start * kv_heads * value_dim + columns_before..];
    let kernel = cpu.kernel(DType::F32);

    let panels = queries.len().div_ceil(PANEL);
    let [query_len, value_len] = [head_dim * PANEL, value_dim * PANEL];
    resize(&mut workspace.queries, panels * query_len);
    resize(&mut workspace.product, panels * value_len);
    resize(&mut workspace.sums, panels * value_len);
    workspace.sums.fill(0.0);
    // Queries seen as rows of one head each.
    let rows: Vec<u32> = queries.clone().map(|token| (token * heads + head) as u32).collect();
    for (rows, panel) in rows.chunks(PANEL).zip(workspace.queries.chunks_exact_mut(query_len)) {
        pack(q.data(), rows, head_dim, panel);
    }

    let mut running: [RunningSoftmax; MAX_BLOCK_PANELS] = Default::default();
    for first in (0..segment.len()).step_by(KEYS) {
        let block = first..(first + KEYS).min(segment.len());
        resize(&mut workspace.scores, panels * block.len() * PANEL);
        kernel.lanes(Inputs::F32(&workspace.queries), keys, block.clone(), &mut workspace.scores);
        let scores = workspace.scores.chunks_exact_mut(block.len() * PANEL);
        for (scores, running) in scores.zip(&mut running) {
            cpu.elementwise().softmax_lanes(scores, scale, running);
        }
        let values = Weights::from_f32(&values[first..], value_dim, block.len(), segment.len());
        kernel.lanes(Inputs::F32(&workspace.scores), values, 0..value_dim, &mut workspace.product);
        let sums = workspace.sums.chunks_exact_mut(value_len);
        for ((sums, product), running) in
            sums.zip(workspace.product.chunks_exact(value_len)).zip(&running)
        {
            cpu.elementwise().fold_lanes(sums, product, running);
        }
    }

    let panels = workspace.sums.chunks_exact(value_len).zip(&running);
    for ((sums, running), first) in panels.zip(queries.clone().step_by(PANEL)) {
        for (lane, token) in (first..queries.end.min(first + PANEL)).enumerate() {
            // SAFETY: each head of each token belongs to one item, and each item to one part of a
            // `split`.
            let out = unsafe { out.part(token, head * value_dim..(head + 1) * value_dim) };
            for (out, sums) in out.iter_mut().zip(sums.chunks_exact(PANEL)) {
                *out = sums[lane] / running.sum()[lane];
            }
        }
    }
}

fn resize(buffer: &mut Vec<f32>, len: usize) {
    buffer.resize(len, 0.0);
}
