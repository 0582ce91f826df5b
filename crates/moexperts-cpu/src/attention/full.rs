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
    product::{BLOCK_PANELS, Inputs, PANEL, Weights, pack},
    shared_rows::SharedRows,
};

/// Queries that pass over the keys together.
const QUERIES: usize = BLOCK_PANELS * PANEL;

/// Keys of a block: with their scores, they stay in the second-level cache.
const KEYS: usize = 256;

/// Queries of one head in one segment.
struct Item<'a> {
    segment: &'a Range<usize>,
    queries: Range<usize>,
    head: usize,
}

/// Room for one thread.
#[derive(Default)]
struct Room {
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
    out.reset(q.rows(), q.cols());
    let shared = SharedRows::new(out.data_mut(), q.cols());
    cpu.threads().split(items.len(), 1, |range| {
        let mut room = Room::default();
        for item in &items[range] {
            attend(cpu, [q, k], &values, item, spec, &mut room, &shared);
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
                    // SAFETY: the blocks are divided among the threads.
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
    room: &mut Room,
    out: &SharedRows<'_, f32>,
) {
    let AttentionSpec { heads, kv_heads, head_dim, scale, .. } = *spec;
    let Item { segment, queries, head } = item;
    let (width, kv_head) = (k.cols(), head / (heads / kv_heads));
    let first_column = kv_head * head_dim;
    let keys = &k.data()[segment.start * width + first_column..];
    let keys = Weights::from_f32(keys, segment.len(), head_dim, width);
    let values = &values[segment.start * width + first_column * segment.len()..];
    let kernel = cpu.kernel(DType::F32);

    let panels = queries.len().div_ceil(PANEL);
    let panel_len = head_dim * PANEL;
    resize(&mut room.queries, panels * panel_len);
    resize(&mut room.product, panels * panel_len);
    resize(&mut room.sums, panels * panel_len);
    room.sums.fill(0.0);
    // Queries seen as rows of one head each.
    let rows: Vec<u32> = queries.clone().map(|token| (token * heads + head) as u32).collect();
    for (rows, panel) in rows.chunks(PANEL).zip(room.queries.chunks_exact_mut(panel_len)) {
        pack(q.data(), rows, head_dim, panel);
    }

    let mut running: [RunningSoftmax; BLOCK_PANELS] = Default::default();
    for first in (0..segment.len()).step_by(KEYS) {
        let block = first..(first + KEYS).min(segment.len());
        resize(&mut room.scores, panels * block.len() * PANEL);
        kernel.lanes(Inputs::F32(&room.queries), keys, block.clone(), &mut room.scores);
        let scores = room.scores.chunks_exact_mut(block.len() * PANEL);
        for (scores, running) in scores.zip(&mut running) {
            cpu.elementwise().softmax_lanes(scores, scale, running);
        }
        let values = Weights::from_f32(&values[first..], head_dim, block.len(), segment.len());
        kernel.lanes(Inputs::F32(&room.scores), values, 0..head_dim, &mut room.product);
        let sums = room.sums.chunks_exact_mut(panel_len);
        for ((sums, product), running) in
            sums.zip(room.product.chunks_exact(panel_len)).zip(&running)
        {
            cpu.elementwise().fold_lanes(sums, product, running);
        }
    }

    let panels = room.sums.chunks_exact(panel_len).zip(&running);
    for ((sums, running), first) in panels.zip(queries.clone().step_by(PANEL)) {
        for (lane, token) in (first..queries.end.min(first + PANEL)).enumerate() {
            // SAFETY: each head of each token belongs to one item.
            let out = unsafe { out.part(token, head * head_dim..(head + 1) * head_dim) };
            for (out, sums) in out.iter_mut().zip(sums.chunks_exact(PANEL)) {
                *out = sums[lane] / running.sum()[lane];
            }
        }
    }
}

fn resize(buffer: &mut Vec<f32>, len: usize) {
    buffer.resize(len, 0.0);
}
