//! Whether the arguments of the operations of a [`Device`] agree with each other: said once, so that
//! every device refuses the same calls in the same words.
//!
//! Shapes are `[rows, cols]`. Nothing is allocated where all is well.

use crate::{
    Activation, AttentionSpec, Batch, Device, ExpertGroups, ExpertsSpec, RouterSpec, StateSpec,
    WeightFormat,
    error::{Error, Result, listed},
    positions::{Held, seen_from},
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
/// [`Error::Count`].
pub fn count(what: &str, got: usize, expected: usize) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::count(what, expected, got)) }
}

/// Whether the vector `what` has as many values as it must have.
///
/// # Errors
/// [`Error::Shape`].
pub fn length(what: &str, got: usize, expected: usize) -> Result<()> {
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
    shape("y", y, [rows.len(), x[1]])?;
    indices("row", rows.iter().copied(), x[0])
}

/// How many bags of `taps` rows there are, each row with a weight and below `limit`.
///
/// # Errors
/// [`Error::Count`], [`Error::OutOfRange`].
pub fn bags(rows: &[u32], weights: &[f32], taps: usize, limit: usize) -> Result<usize> {
    let bags = rows.len().checked_div(taps).unwrap_or(0);
    if rows.len() != bags * taps {
        return Err(Error::count("rows for bags", format!("a multiple of {taps}"), rows.len()));
    }
    count("weights for the rows of bags", weights.len(), rows.len())?;
    indices("row", rows.iter().map(|&row| row as usize), limit)?;
    Ok(bags)
}

/// Whether weight and bias of a layer norm are as long as the rows of `x`.
///
/// # Errors
/// [`Error::Shape`].
pub fn layer_norm(x: [usize; 2], weight: usize, bias: usize) -> Result<()> {
    length("weight of a norm", weight, x[1])?;
    length("bias of a norm", bias, x[1])
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

/// Whether a layer of `weight` [out, in], with a bias of that length if it has one, takes `x`.
///
/// # Errors
/// [`Error::Shape`].
pub fn linear(x: [usize; 2], weight: [usize; 2], bias: Option<usize>) -> Result<()> {
    shape("input of a linear layer", x, [x[0], weight[1]])?;
    bias.map_or(Ok(()), |bias| length("bias", bias, weight[0]))
}

/// Whether each row of `x` has its angles, and each head is wide enough to be turned by them.
///
/// # Errors
/// [`Error::Shape`].
pub fn rope(x: [usize; 2], head_dim: usize, cos: [usize; 2], sin: [usize; 2]) -> Result<()> {
    shape("sin", sin, cos)?;
    shape("cos", cos, [x[0], cos[1]])?;
    let turned = 2 * cos[1];
    let whole = head_dim > 0 && x[1].is_multiple_of(head_dim) && turned <= head_dim;
    require(whole, "row to rotate", || {
        [format!("heads of at least {turned}"), format!("[{}] in heads of {head_dim}", x[1])]
    })
}

/// Whether a gate [T, G] has factors for `x` [T, C]: C / G is a whole number.
///
/// # Errors
/// [`Error::Shape`].
pub fn gate(x: [usize; 2], gate: [usize; 2]) -> Result<()> {
    let whole = x[0] == gate[0] && (x[1] == 0 || gate[1] > 0 && x[1].is_multiple_of(gate[1]));
    require(whole, "gate", || {
        let expected = format!("[{}, a divisor of {}]", x[0], x[1]);
        [expected, format!("[{}, {}]", gate[0], gate[1])]
    })
}

/// Whether layers can keep such states.
///
/// # Errors
/// [`Error::Shape`].
pub fn states(layers: &[StateSpec]) -> Result<()> {
    for (layer, state) in layers.iter().enumerate() {
        if let StateSpec::Kv { window, .. } = *state {
            at_least_one(window, || format!("window of the state of layer {layer}"))?;
        }
    }
    Ok(())
}

/// Whether the queries, keys and values of some tokens are what `spec` says, there is a sink for
/// each head if there are any, and the layer's state is one of such keys and values.
///
/// # Errors
/// [`Error::Shape`].
pub fn attention(
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
            let texts = || ["keys and values".to_owned(), "nothing".to_owned()];
            return require(false, "state of an attention layer", texts);
        }
    };
    shape("queries", q, [tokens, heads * head_dim])?;
    shape("keys", k, [tokens, kept[0] * kept[1]])?;
    shape("values", v, [tokens, kept[0] * kept[2]])?;
    let own = [kv_heads, head_dim, value_dim];
    require(own == kept, "attention", || {
        [kept, own].map(|[heads, keys, values]| {
            format!("{heads} heads of keys of {keys} and values of {values}")
        })
    })?;
    require(heads.is_multiple_of(kv_heads.max(1)), "query heads", || {
        [format!("a multiple of {kv_heads}"), heads.to_string()]
    })?;
    sinks.map_or(Ok(()), |sinks| count("sinks", sinks, heads))?;
    at_least_one(sliding_window, || "sliding window".to_owned())?;
    match *state {
        StateSpec::Kv { window: Some(most), .. } => {
            let held = sliding_window.is_some_and(|window| window <= most);
            require(held, "sliding window", || {
                let got = sliding_window.map_or("none".to_owned(), |window| window.to_string());
                [format!("at most {most}, as the state of the layer holds"), got]
            })
        }
        _ => Ok(()),
    }
}

/// Whether a layer can read a batch: each span begins where the layer, which has some sequences and
/// holds `held` of each, can go on, or where the span before it in its sequence ends.
///
/// # Errors
/// [`Error::OutOfRange`], [`Error::Dropped`]; [`Error::Shape`] if spans overlap.
pub fn spans(
    batch: &Batch,
    layer: usize,
    window: Option<usize>,
    sequences: usize,
    held: impl Fn(usize) -> Held,
) -> Result<()> {
    let (spans, repeats) = (batch.spans(), batch.may_repeat_sequences());
    for (index, span) in spans.iter().enumerate() {
        let (sequence, start) = (span.sequence, span.start);
        indices("sequence", [sequence], sequences)?;
        let earlier = || spans[..index].iter().rfind(|other| other.sequence == sequence);
        if let Some(earlier) = repeats.then(earlier).flatten() {
            let end = earlier.start + earlier.tokens;
            position(start, end)?;
            require(start == end, "second span of a sequence", || {
                [format!("tokens from position {end} on"), format!("from position {start} on")]
            })?;
            continue;
        }
        let held = held(sequence);
        position(start, held.to)?;
        if !held.can_cut(start, window) {
            let seen_from = seen_from(start, window);
            return Err(Error::Dropped { layer, held_from: held.from, position: start, seen_from });
        }
    }
    Ok(())
}

/// Whether a span can begin where a layer holds that many positions of its sequence.
///
/// # Errors
/// [`Error::OutOfRange`].
pub fn position(start: usize, held: usize) -> Result<()> {
    indices("position", [start], held + 1)
}

/// Whether a window, if there is one, is of at least one token.
fn at_least_one(window: Option<usize>, what: impl FnOnce() -> String) -> Result<()> {
    if window != Some(0) {
        return Ok(());
    }
    Err(Error::Shape { what: what(), expected: "at least 1".to_owned(), got: "0".to_owned() })
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
    let AttentionSpec { heads, kv_heads, head_dim, value_dim, sliding_window: window, .. } = *spec;
    let tokens: usize = segments.iter().sum();
    shape("queries", q, [tokens, heads * head_dim])?;
    shape("keys", k, [tokens, kv_heads * head_dim])?;
    shape("values", v, [tokens, kv_heads * value_dim])?;
    let some = kv_heads > 0 && head_dim > 0 && value_dim > 0;
    let even = some && heads.is_multiple_of(kv_heads);
    require(even && window.is_none(), "full attention", || {
        [
            "query heads that share key/value heads evenly, and no window".to_owned(),
            format!(
                "{heads} and {kv_heads} heads of {head_dim}, values of {value_dim}, window {window:?}"
            ),
        ]
    })
}

/// Whether a layer of `experts` experts can have the router.
///
/// # Errors
/// [`Error::Router`].
pub fn router(spec: &RouterSpec, experts: usize) -> Result<()> {
    let RouterSpec { top_k, groups, normalise, scale, .. } = *spec;
    if let Some(groups) = groups {
        expert_groups(groups, experts)?;
        let size = experts / groups.count;
        router_has("top_k", top_k <= groups.keep * size, || {
            let most = groups.keep * size;
            [
                format!("at most {most}: {} groups of {size} are kept", groups.keep),
                top_k.to_string(),
            ]
        })?;
    }
    router_has("top_k", top_k <= experts, || {
        [format!("at most {experts}, the number of experts"), top_k.to_string()]
    })?;
    let eps = normalise.unwrap_or_default();
    router_has("normalise", eps.is_finite() && eps >= 0.0, || {
        ["a finite number that is not negative".to_owned(), eps.to_string()]
    })?;
    router_has("scale", scale.is_finite(), || ["a finite number".to_owned(), scale.to_string()])
}

fn expert_groups(groups: ExpertGroups, experts: usize) -> Result<()> {
    let ExpertGroups { count, keep, best, masked } = groups;
    let most = ExpertGroups::MAX_COUNT;
    let even = (1..=most).contains(&count) && experts.is_multiple_of(count);
    router_has("groups.count", even, || {
        [format!("1 to {most} that divides {experts} experts"), count.to_string()]
    })?;
    router_has("groups.keep", (1..=count).contains(&keep), || {
        [format!("1 to {count}"), keep.to_string()]
    })?;
    let size = experts / count;
    router_has("groups.best", (1..=size.min(2)).contains(&best), || {
        [format!("1 or 2, and at most {size}, the experts of a group"), best.to_string()]
    })?;
    router_has("groups.masked", masked == 0.0 || masked == f32::NEG_INFINITY, || {
        ["0 or -inf".to_owned(), masked.to_string()]
    })
}

fn router_has(what: &'static str, it_is: bool, texts: impl FnOnce() -> [String; 2]) -> Result<()> {
    if it_is {
        return Ok(());
    }
    let [expected, got] = texts();
    Err(Error::Router { what, expected, got })
}

/// Whether the router is one of the logits' experts, the pick bias and the scale per expert, if
/// there are, have a value for each of them, and the gate of a shared expert one for each token.
///
/// # Errors
/// [`Error::Router`], [`Error::Shape`].
pub fn route(
    logits: [usize; 2],
    spec: &RouterSpec,
    [pick_bias, per_expert_scale]: [Option<usize>; 2],
    gate: Option<[usize; 2]>,
) -> Result<()> {
    let [tokens, experts] = logits;
    router(spec, experts)?;
    pick_bias.map_or(Ok(()), |len| length("pick bias", len, experts))?;
    per_expert_scale.map_or(Ok(()), |len| length("scale per expert", len, experts))?;
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

/// Whether a device has kernels for weights of this format.
///
/// # Errors
/// [`Error::Device`] that names the format and those the device has.
pub fn format<D: Device>(device: &D, format: WeightFormat) -> Result<()> {
    match format_problem(format, |format| device.has_format(format)) {
        None => Ok(()),
        Some(problem) => Err(Error::Device { device: D::NAME, problem }),
    }
}

/// Whether a device has this activation.
///
/// # Errors
/// [`Error::Device`] that names the activation.
pub fn activation<D: Device>(device: &D, activation: Activation) -> Result<()> {
    match activation_problem(activation, |activation| device.has_activation(activation)) {
        None => Ok(()),
        Some(problem) => Err(Error::Device { device: D::NAME, problem }),
    }
}

/// Whether a device has what every experts backend on it needs for such experts: kernels for the
/// format of the weights, the activation, and a gate where the activation needs one.
///
/// # Errors
/// [`Error::Backend`] of the backend `name` that says what is missing.
pub fn backend<D: Device>(name: &str, device: &D, spec: &ExpertsSpec) -> Result<()> {
    let has_format = |format| device.has_format(format);
    let has_activation = |activation| device.has_activation(activation);
    match experts_problem(spec, has_format, has_activation) {
        None => Ok(()),
        Some(problem) => Err(Error::Backend { name: name.to_owned(), device: D::NAME, problem }),
    }
}

/// What a device that has some formats and activations lacks for such experts.
fn experts_problem(
    spec: &ExpertsSpec,
    has_format: impl Fn(WeightFormat) -> bool,
    has_activation: impl Fn(Activation) -> bool,
) -> Option<String> {
    let gate_is_missing = !spec.gated && spec.activation.needs_gate();
    format_problem(spec.format, has_format)
        .or_else(|| activation_problem(spec.activation, has_activation))
        .or_else(|| {
            gate_is_missing
                .then(|| format!("the {} needs a gate projection", spec.activation.name()))
        })
}

fn format_problem(
    format: WeightFormat,
    has_format: impl Fn(WeightFormat) -> bool,
) -> Option<String> {
    if has_format(format) {
        return None;
    }
    let known = WeightFormat::ALL.iter().copied().filter(|&format| has_format(format));
    let known = listed(known.map(WeightFormat::name));
    Some(format!("weights of format `{format}` are not supported, expected one of {known}"))
}

fn activation_problem(
    activation: Activation,
    has_activation: impl Fn(Activation) -> bool,
) -> Option<String> {
    let missing = !has_activation(activation);
    missing.then(|| format!("the activation {} is not supported", activation.name()))
}

/// `Ok` if `it_is`, else an error of what was expected and what was given.
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
            "y has shape [2, 3], expected [2, 2]"
        );
        assert_eq!(
            refused(rows_of([3, 2], &[0, 3], [2, 2])),
            "row 3 is out of range, expected less than 3"
        );
        assert_eq!(
            refused(bags(&[0; 5], &[0.0; 5], 2, 1).map(drop)),
            "expected a multiple of 2 rows for bags, got 5"
        );
        assert_eq!(
            refused(bags(&[0; 4], &[0.0; 3], 2, 1).map(drop)),
            "expected 4 weights for the rows of bags, got 3"
        );
        assert_eq!(refused(layer_norm([2, 3], 3, 4)), "bias of a norm has shape [4], expected [3]");
        assert_eq!(refused(count("results", 1, 2)), "expected 2 results, got 1");
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
    fn what_a_device_lacks_is_named() {
        let spec = ExpertsSpec::gated_silu(4, 2, 3, WeightFormat::F16);
        let problem = |spec: ExpertsSpec| {
            let has_format = |format| format != WeightFormat::F16;
            experts_problem(&spec, has_format, |activation| activation != Activation::Relu2)
        };
        assert_eq!(
            problem(spec).as_deref(),
            Some("weights of format `f16` are not supported, expected one of `f32`, `bf16`")
        );
        let spec = spec.with_format(WeightFormat::F32);
        assert_eq!(problem(spec), None);
        assert_eq!(problem(spec.ungated()), None);
        assert_eq!(
            problem(spec.with_activation(Activation::Relu2)).as_deref(),
            Some("the activation relu2 is not supported")
        );
        let clamped = spec.with_activation(Activation::CLAMPED_SILU);
        assert_eq!(problem(clamped), None);
        assert_eq!(
            problem(clamped.ungated()).as_deref(),
            Some("the clamped silu needs a gate projection")
        );
    }

    #[test]
    fn nothing_is_normalised_or_turned_by_nothing() {
        assert!(rms_norm([1, 0], 0).is_err());
        assert!(rope([2, 0], 0, [2, 0], [2, 0]).is_err());
        assert!(bags(&[1], &[1.0], 0, 2).is_err());
        assert_eq!(bags(&[], &[], 0, 0), Ok(0));
    }

    #[test]
    fn a_router_is_one_of_its_experts() {
        let groups = |count, keep, best, masked| ExpertGroups { count, keep, best, masked };
        let grouped = |top_k, groups| RouterSpec::sigmoid(top_k).with_groups(groups);
        let most = ExpertGroups::MAX_COUNT;
        for (spec, experts) in [
            (RouterSpec::softmax(0, true), 0),
            (RouterSpec::softmax(3, true).with_scale(-1.0), 3),
            (RouterSpec::sigmoid(1).with_normalise(1e-20), 1),
            (grouped(4, groups(4, 2, 2, 0.0)), 8),
            (grouped(0, groups(4, 4, 1, -f32::INFINITY)), 4),
            (grouped(1, groups(most, 1, 2, 0.0)), 2 * most),
        ] {
            assert_eq!(router(&spec, experts), Ok(()), "{spec:?}");
        }
        let best = "router: `groups.best` is";
        let not_negative = "a finite number that is not negative";
        for (spec, experts, expected) in [
            (
                RouterSpec::softmax(3, false),
                2,
                "router: `top_k` is 3, expected at most 2, the number of experts".to_owned(),
            ),
            (
                grouped(5, groups(4, 2, 2, 0.0)),
                8,
                "router: `top_k` is 5, expected at most 4: 2 groups of 2 are kept".to_owned(),
            ),
            (
                grouped(2, groups(3, 2, 2, 0.0)),
                8,
                "router: `groups.count` is 3, expected 1 to 64 that divides 8 experts".to_owned(),
            ),
            (
                grouped(0, groups(0, 0, 1, 0.0)),
                0,
                "router: `groups.count` is 0, expected 1 to 64 that divides 0 experts".to_owned(),
            ),
            (
                grouped(1, groups(65, 1, 1, 0.0)),
                65,
                "router: `groups.count` is 65, expected 1 to 64 that divides 65 experts".to_owned(),
            ),
            (
                grouped(0, groups(4, 0, 1, 0.0)),
                8,
                "router: `groups.keep` is 0, expected 1 to 4".to_owned(),
            ),
            (
                grouped(1, groups(4, 5, 1, 0.0)),
                8,
                "router: `groups.keep` is 5, expected 1 to 4".to_owned(),
            ),
            (
                grouped(1, groups(4, 2, 3, 0.0)),
                16,
                format!("{best} 3, expected 1 or 2, and at most 4, the experts of a group"),
            ),
            (
                grouped(1, groups(4, 2, 2, 0.0)),
                4,
                format!("{best} 2, expected 1 or 2, and at most 1, the experts of a group"),
            ),
            (
                grouped(1, groups(4, 2, 0, 0.0)),
                8,
                format!("{best} 0, expected 1 or 2, and at most 2, the experts of a group"),
            ),
            (
                grouped(1, groups(4, 2, 1, 0.5)),
                8,
                "router: `groups.masked` is 0.5, expected 0 or -inf".to_owned(),
            ),
            (
                grouped(1, groups(4, 2, 1, f32::NAN)),
                8,
                "router: `groups.masked` is NaN, expected 0 or -inf".to_owned(),
            ),
            (
                RouterSpec::sigmoid(1).with_normalise(-1.0),
                8,
                format!("router: `normalise` is -1, expected {not_negative}"),
            ),
            (
                RouterSpec::sigmoid(1).with_normalise(f32::INFINITY),
                8,
                format!("router: `normalise` is inf, expected {not_negative}"),
            ),
            (
                RouterSpec::sigmoid(1).with_scale(f32::NAN),
                8,
                "router: `scale` is NaN, expected a finite number".to_owned(),
            ),
        ] {
            assert_eq!(refused(router(&spec, experts)), expected);
            assert_eq!(refused(route([2, experts], &spec, [None; 2], None)), expected);
        }
    }

    #[test]
    fn what_a_router_reads_is_of_its_experts_and_tokens() {
        let check = |vectors, gate| route([2, 3], &RouterSpec::sigmoid(1), vectors, gate);
        assert_eq!(check([None; 2], None), Ok(()));
        assert_eq!(check([Some(3); 2], Some([2, 1])), Ok(()));
        assert_eq!(refused(check([Some(2), None], None)), "pick bias has shape [2], expected [3]");
        assert_eq!(
            refused(check([None, Some(4)], None)),
            "scale per expert has shape [4], expected [3]"
        );
        assert_eq!(
            refused(check([None; 2], Some([1, 1]))),
            "gate has shape [1, 1], expected [2, 1]"
        );
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
        let with = |spec: AttentionSpec| attention(qkv, 3, &spec, None, &SPEC.state());
        assert!(with(SPEC).is_ok());
        assert!(attention(qkv, 2, &SPEC, None, &SPEC.state()).is_err());
        assert!(attention([qkv[0], qkv[1], [3, 16]], 3, &SPEC, None, &SPEC.state()).is_err());
        assert!(with(AttentionSpec { heads: 2, head_dim: 16, ..SPEC }).is_err());
        assert_eq!(
            refused(with(AttentionSpec { value_dim: 8, ..SPEC })),
            "attention has shape 2 heads of keys of 8 and values of 8, \
             expected 2 heads of keys of 8 and values of 6"
        );
        assert!(with(AttentionSpec { kv_heads: 4, ..SPEC }).is_err());
        assert!(attention([[3, 24], qkv[1], qkv[2]], 3, &SPEC, None, &SPEC.state()).is_err());
        let uneven = AttentionSpec { heads: 3, ..SPEC };
        assert_eq!(
            refused(attention([[3, 24], qkv[1], qkv[2]], 3, &uneven, None, &SPEC.state())),
            "query heads has shape 3, expected a multiple of 2"
        );
        assert_eq!(
            refused(attention(qkv, 3, &SPEC, None, &StateSpec::None)),
            "state of an attention layer has shape nothing, expected keys and values"
        );
        assert!(attention(qkv, 3, &SPEC, Some(4), &SPEC.state()).is_ok());
        assert_eq!(
            refused(attention(qkv, 3, &SPEC, Some(3), &SPEC.state())),
            "expected 4 sinks, got 3"
        );
        assert!(full_attention(qkv, &[1, 2], &SPEC).is_ok());
        assert!(full_attention(qkv, &[1, 1], &SPEC).is_err());
        let window = AttentionSpec { sliding_window: Some(4), ..SPEC };
        assert!(refused(full_attention(qkv, &[3], &window)).ends_with("evenly, and no window"));
    }

    #[test]
    fn a_window_is_at_least_one_token_and_at_most_what_is_held() {
        let qkv = [[3, 32], [3, 16], [3, 12]];
        let of = |sliding_window| AttentionSpec { sliding_window, ..SPEC };
        let with = |window, held| attention(qkv, 3, &of(window), None, &of(held).state());
        for (window, held) in
            [(None, None), (Some(4), None), (Some(4), Some(4)), (Some(3), Some(4))]
        {
            assert!(with(window, held).is_ok(), "{window:?} {held:?}");
        }
        assert_eq!(
            refused(with(Some(5), Some(4))),
            "sliding window has shape 5, expected at most 4, as the state of the layer holds"
        );
        assert!(refused(with(None, Some(4))).contains("shape none, expected at most 4"));
        assert_eq!(refused(with(Some(0), None)), "sliding window has shape 0, expected at least 1");
        assert!(states(&[SPEC.state(), StateSpec::None, of(Some(1)).state()]).is_ok());
        assert_eq!(
            refused(states(&[SPEC.state(), of(Some(0)).state()])),
            "window of the state of layer 1 has shape 0, expected at least 1"
        );
    }

    #[test]
    fn a_span_begins_where_its_layer_or_the_span_before_it_ends_or_can_be_cut() {
        let try_spans = |batch: &[(usize, usize, usize)]| {
            let span = |&(sequence, start, tokens)| crate::Span { sequence, start, tokens };
            let batch = Batch::new(batch.iter().map(span).collect());
            spans(&batch, 7, Some(4), 2, |sequence| match sequence {
                0 => Held { from: 10, to: 20 },
                _ => Held::default(),
            })
        };
        for batch in [
            &[(0, 20, 3), (1, 0, 5)][..],
            &[(0, 20, 0)],
            &[(0, 13, 1)],
            &[(0, 0, 1)],
            &[(1, 0, 5), (0, 15, 1), (1, 5, 2), (0, 16, 2), (1, 7, 1)],
        ] {
            assert_eq!(try_spans(batch), Ok(()), "{batch:?}");
        }
        let out_of_range = |what, index, limit| Error::OutOfRange { what, index, limit };
        for (batch, error) in [
            (&[(2, 0, 1)][..], out_of_range("sequence", 2, 2)),
            (&[(0, 21, 1)], out_of_range("position", 21, 21)),
            (&[(1, 0, 5), (1, 6, 1)], out_of_range("position", 6, 6)),
            (&[(0, 12, 1)], Error::Dropped { layer: 7, held_from: 10, position: 12, seen_from: 9 }),
        ] {
            assert_eq!(try_spans(batch), Err(error), "{batch:?}");
        }
        assert_eq!(
            refused(try_spans(&[(0, 12, 1)])),
            "the state of layer 7 holds positions from 10 on, a token at 12 sees from 9 on: \
             read the sequence again from position 0"
        );
        assert_eq!(
            refused(try_spans(&[(0, 15, 3), (1, 0, 1), (0, 17, 1)])),
            "second span of a sequence has shape from position 17 on, \
             expected tokens from position 18 on"
        );
    }

    #[test]
    fn a_routing_of_no_experts_is_one_of_any_tokens() {
        let spec = ExpertsSpec::gated_silu(4, 2, 3, WeightFormat::F32);
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
