//! Whether the arguments of a [`Device`](crate::Device)'s operations agree with each other: said
//! once, so that every device refuses the same calls in the same words.
//!
//! Shapes are `[rows, cols]`. Nothing is allocated where all is well.

use crate::{
    AttentionSpec, ExpertsSpec, KvCacheSpec, RouterSpec,
    error::{Error, Result},
};

/// Whether `what` has the shape it must have.
///
/// # Errors
/// [`Error::Shape`].
pub fn shape(what: &str, got: [usize; 2], expected: [usize; 2]) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::shape(what, expected, got)) }
}

/// Whether there are as many `what` as there must be.
///
/// # Errors
/// [`Error::Shape`].
pub fn count(what: &str, got: usize, expected: usize) -> Result<()> {
    require(got == expected, what, || [format!("[{expected}]"), format!("[{got}]")])
}

/// Whether all `indices` of `what` are below `limit`.
///
/// # Errors
/// [`Error::OutOfRange`] for the first that is not.
pub fn indices(
    what: &'static str,
    indices: impl IntoIterator<Item = usize>,
    limit: usize,
) -> Result<()> {
    match indices.into_iter().find(|&index| index >= limit) {
        Some(index) => Err(Error::OutOfRange { what, index, limit }),
        None => Ok(()),
    }
}

/// Whether so many values are those of a tensor.
///
/// # Errors
/// [`Error::Shape`].
pub fn tensor_data(values: usize, [rows, cols]: [usize; 2]) -> Result<()> {
    let agree = rows.checked_mul(cols) == Some(values);
    require(agree, "tensor data", || [format!("[{rows}, {cols}]"), format!("[{values}]")])
}

/// Whether `y` has a row for each of some `rows` of `x`.
///
/// # Errors
/// [`Error::Shape`], [`Error::OutOfRange`].
pub fn rows_of(x: [usize; 2], rows: &[usize], y: [usize; 2]) -> Result<()> {
    shape("rows", y, [rows.len(), x[1]])?;
    indices("row", rows.iter().copied(), x[0])
}

/// How many bags of `taps` rows there are, each row with a weight and below `limit`.
///
/// # Errors
/// [`Error::Shape`], [`Error::OutOfRange`].
pub fn bags(rows: &[u32], weights: &[f32], taps: usize, limit: usize) -> Result<usize> {
    let bags = rows.len().checked_div(taps).unwrap_or(0);
    let whole = rows.len() == weights.len() && rows.len() == bags * taps;
    require(whole, "rows and weights of a bag", || {
        [format!("[{bags}, {taps}]"), format!("[{}] and [{}]", rows.len(), weights.len())]
    })?;
    indices("row", rows.iter().map(|&row| row as usize), limit)?;
    Ok(bags)
}

/// Whether weight and bias of a layer norm are as long as the rows of `x`.
///
/// # Errors
/// [`Error::Shape`].
pub fn layer_norm(x: [usize; 2], weight: usize, bias: usize) -> Result<()> {
    require([weight, bias] == [x[1]; 2], "weight and bias of a norm", || {
        [format!("[{}]", x[1]), format!("[{weight}] and [{bias}]")]
    })
}

/// Whether the rows of `x` are heads as long as the weight of an RMS norm.
///
/// # Errors
/// [`Error::Shape`].
pub fn rms_norm(x: [usize; 2], weight: usize) -> Result<()> {
    require(weight > 0 && x[1].is_multiple_of(weight), "row to normalise", || {
        [format!("a multiple of [{weight}]"), format!("[{}]", x[1])]
    })
}

/// Whether a layer of `weight` [out, in], with a bias of so many values if it has one, takes `x`.
///
/// # Errors
/// [`Error::Shape`].
pub fn linear(x: [usize; 2], weight: [usize; 2], bias: Option<usize>) -> Result<()> {
    shape("input of a linear layer", x, [x[0], weight[1]])?;
    bias.map_or(Ok(()), |bias| count("bias", bias, weight[0]))
}

/// Whether each row of `x` has its angles, and each head is wide enough to be turned by them.
///
/// # Errors
/// [`Error::Shape`].
pub fn rope(x: [usize; 2], head_dim: usize, cos: [usize; 2], sin: [usize; 2]) -> Result<()> {
    shape("sines", sin, cos)?;
    shape("cosines", cos, [x[0], cos[1]])?;
    let turned = 2 * cos[1];
    let whole = head_dim > 0 && x[1].is_multiple_of(head_dim) && turned <= head_dim;
    require(whole, "row to rotate", || {
        [format!("heads of at least {turned}"), format!("[{}] in heads of {head_dim}", x[1])]
    })
}

/// Whether the queries, keys and values of so many tokens are what `spec` says, and the cache
/// holds such.
///
/// # Errors
/// [`Error::Shape`].
pub fn attention(
    [q, k, v]: [[usize; 2]; 3],
    tokens: usize,
    spec: &AttentionSpec,
    cache: &KvCacheSpec,
) -> Result<()> {
    let width = cache.kv_heads * cache.head_dim;
    shape("queries", q, [tokens, spec.heads * spec.head_dim])?;
    shape("keys", k, [tokens, width])?;
    shape("values", v, [tokens, width])?;
    let (got, expected) = ([spec.kv_heads, spec.head_dim], [cache.kv_heads, cache.head_dim]);
    match got == expected && spec.heads.is_multiple_of(spec.kv_heads.max(1)) {
        true => Ok(()),
        false => Err(Error::shape("heads", expected, got)),
    }
}

/// Whether a span can be appended where a layer's cache holds so many positions of its sequence.
///
/// # Errors
/// [`Error::OutOfRange`].
pub fn position(start: usize, held: usize) -> Result<()> {
    indices("position", [start], held + 1)
}

/// Whether the queries, keys and values of some segments' tokens are what `spec` says.
///
/// # Errors
/// [`Error::Shape`].
pub fn full_attention(
    [q, k, v]: [[usize; 2]; 3],
    segments: &[usize],
    spec: &AttentionSpec,
) -> Result<()> {
    let AttentionSpec { heads, kv_heads, head_dim, sliding_window: window, .. } = *spec;
    let tokens: usize = segments.iter().sum();
    shape("queries", q, [tokens, heads * head_dim])?;
    shape("keys", k, [tokens, kv_heads * head_dim])?;
    shape("values", v, [tokens, kv_heads * head_dim])?;
    let even = kv_heads > 0 && heads.is_multiple_of(kv_heads) && head_dim > 0;
    require(even && window.is_none(), "full attention", || {
        [
            "query heads that share key/value heads evenly, and no window".to_owned(),
            format!("{heads} and {kv_heads} heads of {head_dim}, window {window:?}"),
        ]
    })
}

/// Whether there are experts enough for the logits' tokens, and a gate value for each token.
///
/// # Errors
/// [`Error::Shape`].
pub fn route(logits: [usize; 2], spec: &RouterSpec, gate: Option<[usize; 2]>) -> Result<()> {
    let ([tokens, experts], top_k) = (logits, spec.top_k);
    require(top_k <= experts, "experts per token", || {
        [format!("at most {experts}"), top_k.to_string()]
    })?;
    gate.map_or(Ok(()), |gate| shape("gate", gate, [tokens, 1]))
}

/// Whether the hidden states `x`, a routing of [T, K] and a result are those of an experts layer.
///
/// # Errors
/// [`Error::Shape`].
pub fn experts(
    spec: &ExpertsSpec,
    x: [usize; 2],
    routing: [usize; 2],
    out: [usize; 2],
) -> Result<()> {
    let ([tokens, _], [_, top_k]) = (x, routing);
    shape("hidden_states", x, [tokens, spec.hidden])?;
    if top_k > 0 {
        shape("top_k_index", routing, [tokens, top_k])?;
    }
    shape("out", out, [tokens, spec.hidden])
}

/// Whether it is so; else an error of what was expected and what came.
fn require(it_is: bool, what: &str, texts: impl FnOnce() -> [String; 2]) -> Result<()> {
    if it_is {
        return Ok(());
    }
    let [expected, got] = texts();
    Err(Error::Shape { what: what.to_owned(), expected, got })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(result: Result<()>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn what_disagrees_is_named_with_what_was_expected() {
        assert_eq!(refused(tensor_data(5, [2, 3])), "tensor data has shape [5], expected [2, 3]");
        assert_eq!(
            refused(rows_of([3, 2], &[0, 1], [2, 3])),
            "rows has shape [2, 3], expected [2, 2]"
        );
        assert_eq!(
            refused(rows_of([3, 2], &[0, 3], [2, 2])),
            "row 3 is out of range, expected less than 3"
        );
        assert_eq!(
            refused(bags(&[0; 5], &[0.0; 5], 2, 1).map(drop)),
            "rows and weights of a bag has shape [5] and [5], expected [2, 2]"
        );
        assert_eq!(
            refused(rms_norm([1, 6], 4)),
            "row to normalise has shape [6], expected a multiple of [4]"
        );
        assert_eq!(refused(linear([2, 3], [4, 3], Some(3))), "bias has shape [3], expected [4]");
        assert_eq!(
            refused(linear([2, 2], [4, 3], None)),
            "input of a linear layer has shape [2, 2], expected [2, 3]"
        );
        assert_eq!(
            refused(rope([2, 8], 4, [2, 3], [2, 3])),
            "row to rotate has shape [8] in heads of 4, expected heads of at least 6"
        );
        assert_eq!(refused(position(3, 2)), "position 3 is out of range, expected less than 3");
    }

    #[test]
    fn nothing_is_normalised_turned_or_chosen_of_nothing() {
        assert!(rms_norm([1, 0], 0).is_err());
        assert!(rope([2, 0], 0, [2, 0], [2, 0]).is_err());
        assert!(bags(&[1], &[1.0], 0, 2).is_err());
        assert_eq!(bags(&[], &[], 0, 0), Ok(0));
        let spec = RouterSpec { top_k: 3, norm_topk_prob: false };
        assert!(route([1, 2], &spec, None).is_err());
        assert!(route([1, 3], &spec, None).is_ok());
        assert!(route([2, 3], &spec, Some([1, 1])).is_err());
    }

    #[test]
    fn heads_are_those_of_the_cache_and_shared_evenly() {
        let spec =
            AttentionSpec { heads: 4, kv_heads: 2, head_dim: 8, scale: 1.0, sliding_window: None };
        let cache = KvCacheSpec { layers: 1, kv_heads: 2, head_dim: 8, sequences: 1 };
        let qkv = [[3, 32], [3, 16], [3, 16]];
        let with = |spec: AttentionSpec| attention(qkv, 3, &spec, &cache);
        assert!(with(spec).is_ok());
        assert!(attention(qkv, 2, &spec, &cache).is_err());
        assert!(with(AttentionSpec { heads: 2, head_dim: 16, ..spec }).is_err());
        assert!(with(AttentionSpec { kv_heads: 4, ..spec }).is_err());
        assert!(full_attention(qkv, &[1, 2], &spec).is_ok());
        assert!(full_attention(qkv, &[1, 1], &spec).is_err());
        let window = AttentionSpec { sliding_window: Some(4), ..spec };
        assert!(refused(full_attention(qkv, &[3], &window)).ends_with("evenly, and no window"));
    }

    #[test]
    fn a_routing_of_no_experts_is_one_of_any_tokens() {
        let spec = ExpertsSpec::gated_silu(4, 2, 3, crate::DType::F32);
        assert!(experts(&spec, [5, 4], [0, 0], [5, 4]).is_ok());
        assert!(experts(&spec, [5, 4], [5, 2], [5, 4]).is_ok());
        let errors = [
            experts(&spec, [5, 3], [5, 2], [5, 4]),
            experts(&spec, [5, 4], [4, 2], [5, 4]),
            experts(&spec, [5, 4], [5, 2], [5, 3]),
        ];
        for (error, what) in errors.into_iter().zip(["hidden_states", "top_k_index", "out"]) {
            assert!(refused(error).starts_with(what), "{what}");
        }
    }
}
