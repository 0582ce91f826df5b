//! Attention: softmax of the scores of queries and keys, times values (Vaswani et al. 2017).
//!
//! Query heads share key/value heads in groups (Ainslie et al. 2023); a token may see a window
//! alone (Beltagy et al. 2020), and a sink may take part in the softmax (Xiao et al. 2023).

use crate::{
    cache::Scratch,
    device::{batch::Batch, memory::Memory},
    error::Result,
    shapes::{count, shape, value_is},
    state::StateSpec,
};

/// Attention of one layer.
///
/// Exhaustive on purpose: a new field changes results, so every device and family has to look at
/// it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSpec {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key/value heads; each serves `heads / kv_heads` neighbouring query heads.
    pub kv_heads: usize,
    /// Width of a head of a query and of a key.
    pub head_dim: usize,
    /// Width of a head of a value and of the result.
    pub value_dim: usize,
    /// Factor on the scores before the softmax.
    pub scale: f32,
    /// If set, a token sees itself and the `sliding_window - 1` before it.
    pub sliding_window: Option<usize>,
}

impl AttentionSpec {
    /// What a layer of this attention keeps.
    pub fn state(&self) -> StateSpec {
        let Self { kv_heads, head_dim, value_dim, sliding_window: window, .. } = *self;
        StateSpec::Kv { kv_heads, head_dim, value_dim, window }
    }
}

/// The arguments of one [`Operations::attention`](crate::Operations::attention).
#[derive(Debug)]
pub struct AttentionCall<'a, D: Memory> {
    /// Queries [T, heads · D], keys [T, kv_heads · D] and values [T, kv_heads · V].
    pub qkv: [&'a D::Tensor; 3],
    /// `[heads]`: a logit for each head, which joins the softmax as it is, not multiplied by the
    /// scale, and is dropped after it (gpt_oss).
    pub sinks: Option<&'a D::Vector>,
    /// What layers keep, of what was read before and now.
    pub state: &'a mut D::State,
    /// The layer's index in the list of states.
    pub layer: usize,
    /// Which sequence each token is of, and which place it has there.
    pub batch: &'a Batch,
    /// What is computed.
    pub spec: &'a AttentionSpec,
    /// The caller's buffers, kept from call to call.
    pub scratch: &'a mut Scratch,
}

/// Whether the queries, keys and values of some tokens are what `spec` says, there is a sink for
/// each head if there are any, and the layer's state is one of such keys and values.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) of a tensor, [`Error::Count`](crate::Error::Count) of
/// sinks, [`Error::Value`](crate::Error::Value) where `spec` and the state disagree.
pub fn check(
    [q, k, v]: [[usize; 2]; 3],
    tokens: usize,
    spec: &AttentionSpec,
    sinks: Option<usize>,
    state: &StateSpec,
) -> Result<()> {
    let AttentionSpec { heads, kv_heads, head_dim, value_dim, sliding_window, .. } = *spec;
    let kept = match *state {
        StateSpec::Kv { kv_heads, head_dim, value_dim, .. } => [kv_heads, head_dim, value_dim],
        StateSpec::None => {
            let expected_got = || ["keys and values".to_owned(), "empty".to_owned()];
            return value_is(false, "state of an attention layer", expected_got);
        }
    };
    shape("query", q, [tokens, heads * head_dim])?;
    shape("key", k, [tokens, kept[0] * kept[1]])?;
    shape("value", v, [tokens, kept[0] * kept[2]])?;
    let own = [kv_heads, head_dim, value_dim];
    value_is(own == kept, "state of an attention layer", || {
        [own, kept].map(|[heads, key, value]| {
            format!("{heads} heads with keys of {key} and values of {value}")
        })
    })?;
    value_is(heads.is_multiple_of(kv_heads.max(1)), "number of query heads", || {
        [format!("a multiple of {kv_heads}, the key/value heads"), heads.to_string()]
    })?;
    sinks.map_or(Ok(()), |sinks| count("sinks", sinks, heads))?;
    value_is(sliding_window != Some(0), "sliding window", || {
        ["at least 1".to_owned(), "0".to_owned()]
    })?;
    match *state {
        StateSpec::Kv { window: Some(most), .. } => {
            let held = sliding_window.is_some_and(|window| window <= most);
            value_is(held, "sliding window", || {
                let got = sliding_window.map_or("none".to_owned(), |window| window.to_string());
                [format!("at most {most}, as the state of the layer holds"), got]
            })
        }
        _ => Ok(()),
    }
}

/// Whether the queries, keys and values of some segments' tokens are what `spec` says, and it has
/// no window.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) of a tensor, [`Error::Value`](crate::Error::Value) of
/// `spec`.
pub fn check_full(
    [q, k, v]: [[usize; 2]; 3],
    segments: &[usize],
    spec: &AttentionSpec,
) -> Result<()> {
    let AttentionSpec { heads, kv_heads, head_dim, value_dim, sliding_window: window, .. } = *spec;
    let tokens: usize = segments.iter().sum();
    shape("query", q, [tokens, heads * head_dim])?;
    shape("key", k, [tokens, kv_heads * head_dim])?;
    shape("value", v, [tokens, kv_heads * value_dim])?;
    let some = kv_heads > 0 && head_dim > 0 && value_dim > 0;
    value_is(some, "number or width of key/value heads", || {
        let got = format!("{kv_heads} with keys of {head_dim} and values of {value_dim}");
        ["at least 1 each".to_owned(), got]
    })?;
    value_is(heads.is_multiple_of(kv_heads), "number of query heads", || {
        [format!("a multiple of {kv_heads}, the key/value heads"), heads.to_string()]
    })?;
    value_is(window.is_none(), "sliding window of full attention", || {
        ["none".to_owned(), window.unwrap_or_default().to_string()]
    })
}

/// Attention of one query `[D]` over keys `[D]` and values `[V]`, one of each a token:
/// `Σ_j softmax(scale · q · keys[j])_j · values[j]`, `[V]`.
///
/// # Panics
/// If there is no value, or shapes disagree.
pub fn formula(
    q: &[f32],
    [keys, values]: [&[&[f32]]; 2],
    scale: f32,
    sink: Option<f32>,
) -> Vec<f64> {
    assert_eq!(keys.len(), values.len(), "keys and values");
    let score = |key: &&[f32]| {
        assert_eq!(key.len(), q.len(), "query and key");
        let products = q.iter().zip(*key).map(|(&q, &k)| f64::from(q) * f64::from(k));
        f64::from(scale) * products.sum::<f64>()
    };
    let scores: Vec<f64> = keys.iter().map(score).collect();
    let weights = softmax(&scores, sink.map(f64::from));
    let column = |at: usize| {
        values.iter().zip(&weights).map(|(value, weight)| weight * f64::from(value[at])).sum()
    };
    (0..values[0].len()).map(column).collect()
}

/// `exp(scores[j]) / (Σ_i exp(scores[i]) + exp(sink))`: a sink takes part in the softmax and is
/// dropped after it, as in transformers' `modeling_gpt_oss.eager_attention_forward`.
pub fn softmax(scores: &[f64], sink: Option<f64>) -> Vec<f64> {
    let logits = || scores.iter().copied().chain(sink);
    let max = logits().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = logits().map(|logit| (logit - max).exp()).sum();
    scores.iter().map(|score| (score - max).exp() / total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(result: Result<()>) -> String {
        result.unwrap_err().to_string()
    }

    const SPEC: AttentionSpec = AttentionSpec {
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        value_dim: 6,
        scale: 1.0,
        sliding_window: None,
    };

    #[test]
    fn heads_are_those_of_the_state_and_shared_evenly() {
        let qkv = [[3, 32], [3, 16], [3, 12]];
        let with = |spec: AttentionSpec| check(qkv, 3, &spec, None, &SPEC.state());
        assert!(with(SPEC).is_ok());
        assert!(check(qkv, 2, &SPEC, None, &SPEC.state()).is_err());
        assert!(check([qkv[0], qkv[1], [3, 16]], 3, &SPEC, None, &SPEC.state()).is_err());
        assert!(with(AttentionSpec { heads: 2, head_dim: 16, ..SPEC }).is_err());
        assert_eq!(
            refused(with(AttentionSpec { value_dim: 8, ..SPEC })),
            "state of an attention layer is 2 heads with keys of 8 and values of 6, \
             expected 2 heads with keys of 8 and values of 8"
        );
        assert!(with(AttentionSpec { kv_heads: 4, ..SPEC }).is_err());
        assert!(check([[3, 24], qkv[1], qkv[2]], 3, &SPEC, None, &SPEC.state()).is_err());
        let uneven = AttentionSpec { heads: 3, ..SPEC };
        assert_eq!(
            refused(check([[3, 24], qkv[1], qkv[2]], 3, &uneven, None, &SPEC.state())),
            "number of query heads is 3, expected a multiple of 2, the key/value heads"
        );
        assert_eq!(
            refused(check(qkv, 3, &SPEC, None, &StateSpec::None)),
            "state of an attention layer is empty, expected keys and values"
        );
        assert!(check(qkv, 3, &SPEC, Some(4), &SPEC.state()).is_ok());
        assert_eq!(
            refused(check(qkv, 3, &SPEC, Some(3), &SPEC.state())),
            "expected 4 sinks, got 3"
        );
        assert!(check_full(qkv, &[1, 2], &SPEC).is_ok());
        assert!(check_full(qkv, &[1, 1], &SPEC).is_err());
        let window = AttentionSpec { sliding_window: Some(4), ..SPEC };
        assert_eq!(
            refused(check_full(qkv, &[3], &window)),
            "sliding window of full attention is 4, expected none"
        );
        let none = AttentionSpec { heads: 0, kv_heads: 0, ..SPEC };
        assert_eq!(
            refused(check_full([[3, 0]; 3], &[3], &none)),
            "number or width of key/value heads is 0 with keys of 8 and values of 6, \
             expected at least 1 each"
        );
    }

    #[test]
    fn a_window_is_at_least_one_token_and_at_most_what_is_held() {
        let qkv = [[3, 32], [3, 16], [3, 12]];
        let of = |sliding_window| AttentionSpec { sliding_window, ..SPEC };
        let with = |window, held| check(qkv, 3, &of(window), None, &of(held).state());
        for (window, held) in
            [(None, None), (Some(4), None), (Some(4), Some(4)), (Some(3), Some(4))]
        {
            assert!(with(window, held).is_ok(), "{window:?} {held:?}");
        }
        assert_eq!(
            refused(with(Some(5), Some(4))),
            "sliding window is 5, expected at most 4, as the state of the layer holds"
        );
        assert!(refused(with(None, Some(4))).contains("is none, expected at most 4"));
        assert_eq!(refused(with(Some(0), None)), "sliding window is 0, expected at least 1");
    }

    #[test]
    fn attention_with_a_sink_by_hand() {
        let (ln_2, keys, values) =
            (std::f32::consts::LN_2, [[0.0], [2.0]], [[1.0, 0.0], [0.0, 5.0]]);
        let [keys, values] =
            [keys.each_ref().map(|k: &[f32; 1]| &k[..]), [&values[0][..], &values[1]]];
        // Weights 1 and 4, and 5 of the sink.
        for (sink, total) in [(None, 5.0), (Some(5.0_f32.ln()), 10.0)] {
            let out = formula(&[2.0], [&keys, &values], 0.5 * ln_2, sink);
            for (out, expected) in out.iter().zip([1.0 / total, 4.0 * 5.0 / total]) {
                assert!((out - expected).abs() < 1e-6, "{out}, expected {expected}");
            }
        }
        assert_eq!(softmax(&[0.0, -1e9], Some(-1e9)), [1.0, 0.0]);
        assert_eq!(softmax(&[0.0], Some(1e9)), [0.0]);
    }
}
