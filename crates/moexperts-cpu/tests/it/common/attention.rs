//! Sequences, their attention on a [`Cpu`], and what it should be.

use std::ops::Range;

use moexperts_core::{
    AttentionCall, AttentionSpec, Batch, Error, Memory, Operations, Scratch, Span, StateSpec,
    Tensor, made, reference,
};
use moexperts_cpu::Cpu;

use super::tensor;

pub(crate) type State = <Cpu as Memory>::State;

/// `u`: half the distance from 1 to the next f32.
const ROUNDING: f64 = f32::EPSILON as f64 / 2.0;

pub(crate) fn spec(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionSpec {
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionSpec { heads, kv_heads, head_dim, value_dim: head_dim, scale, sliding_window: None }
}

/// Queries, keys and values of a sequence.
pub(crate) struct Sequence {
    pub(crate) q: Tensor,
    pub(crate) k: Tensor,
    pub(crate) v: Tensor,
}

impl Sequence {
    pub(crate) fn new(tokens: usize, spec: &AttentionSpec, seed: u64) -> Self {
        let [keys, values] = [spec.head_dim, spec.value_dim].map(|dim| spec.kv_heads * dim);
        let mut q = tensor(tokens, spec.heads * spec.head_dim, seed);
        // Scores of several units, so that the softmax has peaks.
        q.data_mut().iter_mut().for_each(|value| *value *= 6.0);
        Self { q, k: tensor(tokens, keys, seed + 1), v: tensor(tokens, values, seed + 2) }
    }

    pub(crate) fn part(&self, rows: Range<usize>) -> Self {
        let part = |x: &Tensor| {
            let values = x.data()[rows.start * x.cols()..rows.end * x.cols()].to_vec();
            Tensor::from_vec(rows.len(), x.cols(), values).unwrap()
        };
        Self { q: part(&self.q), k: part(&self.k), v: part(&self.v) }
    }

    /// One after another, as rows of one batch.
    pub(crate) fn joined(parts: &[Self]) -> Self {
        let joined = |of: fn(&Self) -> &Tensor| {
            let data: Vec<f32> = parts.iter().flat_map(|part| of(part).data().to_vec()).collect();
            let rows = parts.iter().map(|part| of(part).rows()).sum();
            Tensor::from_vec(rows, of(&parts[0]).cols(), data).unwrap()
        };
        Self { q: joined(|s| &s.q), k: joined(|s| &s.k), v: joined(|s| &s.v) }
    }
}

/// The state of a layer that keeps nothing and of one of this attention, of three sequences.
pub(crate) fn new_state(cpu: &Cpu, spec: &AttentionSpec) -> State {
    cpu.new_state(&[StateSpec::None, spec.state()], 3).unwrap()
}

/// Attends in layer 1.
pub(crate) fn attend(
    cpu: &Cpu,
    state: &mut State,
    spans: &[(usize, usize, usize)],
    rows: &Sequence,
    spec: &AttentionSpec,
) -> Result<Tensor, Error> {
    attend_in(cpu, (state, 1), spans, rows, (spec, None))
}

/// Attends in a layer, with sinks or without.
pub(crate) fn attend_in(
    cpu: &Cpu,
    (state, layer): (&mut State, usize),
    spans: &[(usize, usize, usize)],
    rows: &Sequence,
    (spec, sinks): (&AttentionSpec, Option<&Vec<f32>>),
) -> Result<Tensor, Error> {
    let span = |&(sequence, start, tokens)| Span { sequence, start, tokens };
    let batch = &Batch::new(spans.iter().map(span).collect());
    let (qkv, scratch) = ([&rows.q, &rows.k, &rows.v], &mut Scratch::default());
    made(|out| cpu.attention(AttentionCall { qkv, sinks, state, layer, batch, spec, scratch }, out))
}

/// Checks every value of `out`, the causal attention of a whole sequence, against loops.
pub(crate) fn check_whole(
    out: &Tensor,
    whole: &Sequence,
    (spec, sinks): (&AttentionSpec, Option<&Vec<f32>>),
    what: &str,
) {
    let window = spec.sliding_window.unwrap_or(usize::MAX);
    let seen = |token: usize| (token + 1).saturating_sub(window)..token + 1;
    check(out, whole, (spec, sinks), seen, what);
}

/// Checks every value of `out`, where a token sees the tokens `seen` says, against loops.
pub(crate) fn check(
    out: &Tensor,
    whole: &Sequence,
    (spec, sinks): (&AttentionSpec, Option<&Vec<f32>>),
    seen: impl Fn(usize) -> Range<usize>,
    what: &str,
) {
    for token in 0..whole.q.rows() {
        check_token(out, whole, (spec, sinks), token, seen(token), what);
    }
}

/// Checks the values of one token, which sees the tokens `seen`.
pub(crate) fn check_token(
    out: &Tensor,
    whole: &Sequence,
    (spec, sinks): (&AttentionSpec, Option<&Vec<f32>>),
    token: usize,
    seen: Range<usize>,
    what: &str,
) {
    fn head(x: &Tensor, token: usize, head: usize, dim: usize) -> &[f32] {
        &x.row(token)[head * dim..(head + 1) * dim]
    }
    let AttentionSpec { heads, kv_heads, head_dim, value_dim, scale, .. } = *spec;
    assert_eq!([out.rows(), out.cols()], [whole.q.rows(), heads * value_dim], "{what}");
    for query_head in 0..heads {
        let kv_head = query_head / (heads / kv_heads);
        let q = head(&whole.q, token, query_head, head_dim);
        let keys = seen.clone().map(|seen| head(&whole.k, seen, kv_head, head_dim));
        let values = seen.clone().map(|seen| head(&whole.v, seen, kv_head, value_dim));
        let (keys, values): (Vec<_>, Vec<_>) = (keys.collect(), values.collect());
        let sink = sinks.map(|sinks| sinks[query_head]);
        let expected = reference::attention(q, [&keys, &values], scale, sink);
        let magnitudes = values.iter().map(|value| value.iter().map(|v| v.abs()).collect());
        let magnitudes: Vec<Vec<f32>> = magnitudes.collect();
        let magnitudes: Vec<&[f32]> = magnitudes.iter().map(Vec::as_slice).collect();
        let magnitudes = reference::attention(q, [&keys, &magnitudes], scale, sink);
        let relative = relative_error(q, &keys, scale, sink);
        for (col, &got) in head(out, token, query_head, value_dim).iter().enumerate() {
            let (expected, allowed) = (expected[col], relative * magnitudes[col]);
            assert!(
                (f64::from(got) - expected).abs() <= allowed,
                "{what} out[{token}, {query_head}, {col}]: {got}, expected {expected} within \
                 {allowed:e}",
            );
        }
    }
}

/// How far off the attention of a query may be, relative to the sum of its terms' magnitudes.
fn relative_error(q: &[f32], keys: &[&[f32]], scale: f32, sink: Option<f32>) -> f64 {
    let rounding = (q.len() + 8) as f64 * ROUNDING;
    let (mut scores, mut score_error) = (Vec::new(), 0.0_f64);
    for key in keys {
        let terms = q.iter().zip(*key).map(|(&q, &k)| f64::from(q) * f64::from(k));
        let magnitude: f64 = terms.clone().map(f64::abs).sum();
        scores.push(f64::from(scale) * terms.sum::<f64>());
        score_error = score_error.max(rounding * f64::from(scale) * magnitude);
    }
    let logits = scores.iter().copied().chain(sink.map(f64::from));
    let max = logits.clone().fold(f64::NEG_INFINITY, f64::max);
    // Errors of the scores count twice in a softmax: above and below.
    let reach = logits.map(|logit| max - logit).fold(0.0, f64::max);
    let sums = (2 * scores.len() + 24) as f64 + 8.0 * reach;
    4.0 * score_error + sums * ROUNDING
}
