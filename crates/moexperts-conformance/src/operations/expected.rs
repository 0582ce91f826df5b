//! Expected results of operations: values in f64, each with a bound on its error.
//!
//! Write `u` for half the distance from 1 to the next f32. A sum of n products costs at most `n +
//! 1` roundings of each term; a function costs [`EVALUATION`] roundings of its result and
//! [`ARGUMENT`] for each unit of its argument, as [`Tolerance`](crate::Tolerance) derives them.

use std::ops::Range;

use moexperts_core::{AttentionSpec, reference};

use crate::{
    Bounded,
    tolerance::{ARGUMENT, EVALUATION, ROUNDING, SMALLEST},
};

/// The expected values of a result.
pub(super) type Expected = Vec<Bounded>;

/// A sum, each of whose terms passes some roundings.
pub(super) fn sum(terms: impl IntoIterator<Item = f64>, roundings: usize) -> Bounded {
    let (mut value, mut magnitude) = (0.0, 0.0);
    for term in terms {
        value += term;
        magnitude += term.abs();
    }
    Bounded { value, error: roundings as f64 * ROUNDING * magnitude + SMALLEST }
}

/// Values that every device has the same.
pub(super) fn exact(values: impl IntoIterator<Item = f32>) -> Expected {
    values.into_iter().map(|value| Bounded::exact(f64::from(value))).collect()
}

/// A function of a value that is exact, times a factor that is.
pub(super) fn scaled(function: f64, argument: f64, factor: f64) -> Bounded {
    let relative = (EVALUATION + ARGUMENT * argument.abs()) * ROUNDING;
    Bounded { value: function * factor, error: relative * (function * factor).abs() + SMALLEST }
}

/// Values in f64.
pub(super) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// RMS norm of inputs with errors: an error passes through the value and through the mean of the
/// squares.
pub(super) fn rms_norm(x: &[Bounded], weight: &[f32], eps: f32) -> Expected {
    let n = weight.len() as f64;
    let row = |row: &[Bounded]| -> Expected {
        let squares: f64 = row.iter().map(|x| x.value.powi(2)).sum();
        let root = (squares / n + f64::from(eps)).sqrt();
        let moved = row.iter().map(|x| x.error).fold(0.0, f64::max) / root;
        let relative = (n + 3.0 + EVALUATION) * ROUNDING + moved;
        let exact: Vec<f64> = row.iter().map(|x| x.value).collect();
        let exact = reference::rms_norm(&exact, weight, eps);
        let bound = |((x, &weight), value): ((&Bounded, &f32), f64)| {
            let scale = f64::from(weight) / root;
            let error = x.error * scale.abs() + relative * value.abs();
            Bounded { value, error: error + SMALLEST }
        };
        row.iter().zip(weight).zip(exact).map(bound).collect()
    };
    x.chunks_exact(weight.len()).flat_map(row).collect()
}

/// Attention of one head of one token. Each weight of the softmax moves by twice the error of a
/// score, and each term of the sums above passes as many roundings as there are keys.
pub(super) fn head(
    q: &[f32],
    [keys, values]: [&[&[f32]]; 2],
    scale: f32,
    sink: Option<f32>,
) -> Expected {
    let result = reference::attention(q, [keys, values], scale, sink);
    let magnitude = |key: &&[f32]| q.iter().zip(*key).map(|(q, k)| f64::from((q * k).abs())).sum();
    let reach = f64::from(scale) * keys.iter().map(magnitude).fold(0.0_f64, f64::max);
    let reach = reach.max(sink.map_or(0.0, |sink| f64::from(sink.abs())));
    let roundings = EVALUATION
        + 2.0 * (keys.len() + 1) as f64
        + 2.0 * reach * (ARGUMENT + (q.len() + 2) as f64);
    let largest =
        |column: usize| values.iter().map(|v| f64::from(v[column].abs())).fold(0.0, f64::max);
    let bound = |(column, value)| Bounded { value, error: roundings * ROUNDING * largest(column) };
    result.into_iter().enumerate().map(bound).collect()
}

/// Two query heads for each head of keys and values.
pub(super) const ATTENTION: AttentionSpec = AttentionSpec {
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    value_dim: 16,
    scale: 0.25,
    sliding_window: None,
};

/// Attention of all heads of one token that sees some of the keys and values.
pub(super) fn heads(
    q: &[f32],
    row: usize,
    [keys, values]: &[Vec<f32>; 2],
    seen: Range<usize>,
    sinks: Option<&[f32]>,
) -> Expected {
    let AttentionSpec { heads, kv_heads, head_dim, scale, .. } = ATTENTION;
    let of = |index: usize| {
        let group = index / (heads / kv_heads);
        let rows = |all: &'_ [f32]| -> Vec<Vec<f32>> {
            let at = |token: usize| (token * kv_heads + group) * head_dim;
            seen.clone().map(|token| all[at(token)..][..head_dim].to_vec()).collect()
        };
        let [keys, values] = [rows(keys), rows(values)];
        let [keys, values]: [Vec<&[f32]>; 2] =
            [&keys, &values].map(|all| all.iter().map(Vec::as_slice).collect());
        let q = &q[(row * heads + index) * head_dim..][..head_dim];
        head(q, [&keys, &values], scale, sinks.map(|sinks| sinks[index]))
    };
    (0..heads).flat_map(of).collect()
}
