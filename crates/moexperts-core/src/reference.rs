//! The formulas in plain f64 loops, to read and to test against; never optimised.

use std::cmp::Ordering;

use crate::{
    Activation, Expert, ExpertGroups, GateFunction, Linear, Matrix, PickOn, RopePairing,
    RouterSpec, Routing, Score, Tensor,
};

/// `out[t] = Σ_k w[t,k] · expert[ids[t,k]](x[t])`: [T, H], row-major.
///
/// `experts` are stored `[out, in]`; an id beyond the last is a sentinel and contributes nothing.
///
/// # Panics
/// If shapes disagree.
pub fn experts(
    experts: &[Expert<Matrix, Vec<f32>>],
    activation: Activation,
    x: &Tensor,
    routing: &Routing,
) -> Vec<f64> {
    let mut out = vec![0.0; x.rows() * x.cols()];
    for (token, out) in out.chunks_exact_mut(x.cols().max(1)).enumerate().take(x.rows()) {
        let hidden: Vec<f64> = x.row(token).iter().map(|&value| f64::from(value)).collect();
        for (id, weight) in routing.pairs(token) {
            let Some(expert) = experts.get(id as usize) else { continue };
            for (out, value) in out.iter_mut().zip(expert_output(expert, activation, &hidden)) {
                *out += f64::from(weight) * value;
            }
        }
    }
    out
}

/// `down(activation(gate(x), up(x)))` for one token: `[H]`.
///
/// # Panics
/// If shapes disagree.
pub fn expert_output(
    expert: &Expert<Matrix, Vec<f32>>,
    activation: Activation,
    x: &[f64],
) -> Vec<f64> {
    let up = linear(&expert.up_proj, x);
    let inner: Vec<f64> = match &expert.gate_proj {
        Some(gate_proj) => {
            let gate = linear(gate_proj, x);
            gate.iter().zip(&up).map(|(&gate, &up)| activate_gated(activation, gate, up)).collect()
        }
        None => up.iter().map(|&up| activate(activation, up)).collect(),
    };
    linear(&expert.down_proj, &inner)
}

/// `weight · x + bias`.
///
/// # Panics
/// If shapes disagree.
pub fn linear(linear: &Linear<Matrix, Vec<f32>>, x: &[f64]) -> Vec<f64> {
    assert_eq!(linear.weight.cols(), x.len(), "inputs");
    let output = |row: usize| {
        let weights = linear.weight.row(row);
        let sum: f64 = x.iter().enumerate().map(|(i, x)| f64::from(weights.get(i)) * x).sum();
        sum + linear.bias.as_ref().map_or(0.0, |bias| f64::from(bias[row]))
    };
    (0..linear.weight.rows()).map(output).collect()
}

/// An activation with a gate.
pub fn activate_gated(activation: Activation, gate: f64, up: f64) -> f64 {
    match activation {
        Activation::ClampedSwiglu { alpha, limit } => {
            let (alpha, limit) = (f64::from(alpha), f64::from(limit));
            let gate = gate.min(limit);
            (up.clamp(-limit, limit) + 1.0) * gate * sigmoid(alpha * gate)
        }
        Activation::ClampedSilu { limit } => {
            let limit = f64::from(limit);
            activate(activation, gate) * up.clamp(-limit, limit)
        }
        _ => activate(activation, gate) * up,
    }
}

/// An activation without a gate. One that needs a gate is taken as its gate's half alone.
pub fn activate(activation: Activation, z: f64) -> f64 {
    match activation {
        Activation::Silu => z * sigmoid(z),
        Activation::Gelu => 0.5 * z * libm::erfc(-z / std::f64::consts::SQRT_2),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (z + 0.044715 * z * z * z);
            0.5 * z * (1.0 + inner.tanh())
        }
        Activation::ClampedSwiglu { alpha, limit } => {
            let z = z.min(f64::from(limit));
            z * sigmoid(f64::from(alpha) * z)
        }
        Activation::ClampedSilu { limit } => activate(Activation::Silu, z.min(f64::from(limit))),
        Activation::Relu2 => z.max(0.0).powi(2),
    }
}

/// Attention of one query `[D]` over keys `[D]` and values `[V]`, one of each a token:
/// `Σ_j softmax(scale · q · keys[j])_j · values[j]`, `[V]`.
///
/// # Panics
/// If there is no value, or shapes disagree.
pub fn attention(
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

/// The experts of one token and their weights, from its router logits \[E\]: (id, weight), the largest
/// of what they are picked on first.
///
/// `pick_bias` \[E\] is added to what experts are picked on, `per_expert_scale` \[E\] is a factor on their
/// weights.
///
/// # Panics
/// If `checks::router` refuses the router, or lengths disagree.
pub fn route(
    logits: &[f64],
    spec: &RouterSpec,
    pick_bias: Option<&[f64]>,
    per_expert_scale: Option<&[f64]>,
) -> Vec<(u32, f64)> {
    let mut picked_on = picked_on(logits, spec, pick_bias);
    if let Some(groups) = &spec.groups {
        mask_groups(&mut picked_on, groups);
    }
    let chosen = &descending(&picked_on)[..spec.top_k];
    let scores = scores(logits, spec.score);
    let sum: f64 = chosen.iter().map(|&id| scores[id]).sum();
    let divisor = spec.normalise.map_or(1.0, |eps| sum + f64::from(eps));
    let weight = |id: usize| {
        let scale = per_expert_scale.map_or(1.0, |scale| scale[id]);
        scores[id] / divisor * f64::from(spec.scale) * scale
    };
    chosen.iter().map(|&id| (id as u32, weight(id))).collect()
}

/// The score of each router logit of one token.
pub fn scores(logits: &[f64], score: Score) -> Vec<f64> {
    match score {
        Score::Softmax => {
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let exps: Vec<f64> = logits.iter().map(|logit| (logit - max).exp()).collect();
            let total: f64 = exps.iter().sum();
            exps.iter().map(|exp| exp / total).collect()
        }
        Score::Sigmoid => logits.iter().map(|&logit| sigmoid(logit)).collect(),
        // max(z, 0) + ln(1 + e^-|z|) is ln(1 + e^z) that does not overflow.
        Score::SqrtSoftplus => {
            logits.iter().map(|z| (z.max(0.0) + (-z.abs()).exp().ln_1p()).sqrt()).collect()
        }
    }
}

/// What each expert is picked on before groups are masked, from the router logits \[E\] of one token.
///
/// # Panics
/// If lengths disagree.
pub fn picked_on(logits: &[f64], spec: &RouterSpec, pick_bias: Option<&[f64]>) -> Vec<f64> {
    let mut values = match spec.pick_on {
        PickOn::Scores => scores(logits, spec.score),
        PickOn::Logits => logits.to_vec(),
    };
    if let Some(bias) = pick_bias {
        assert_eq!(bias.len(), values.len(), "pick bias");
        values.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
    }
    values
}

/// The score of each group of experts: the sum of the best of what its experts are picked on.
pub fn group_scores(picked_on: &[f64], groups: &ExpertGroups) -> Vec<f64> {
    let score = |group: &[f64]| -> f64 {
        descending(group)[..groups.best].iter().map(|&id| group[id]).sum()
    };
    picked_on.chunks_exact(picked_on.len() / groups.count).map(score).collect()
}

/// Masks what experts are picked on outside the best groups.
pub fn mask_groups(picked_on: &mut [f64], groups: &ExpertGroups) {
    let size = picked_on.len() / groups.count;
    for &group in &descending(&group_scores(picked_on, groups))[groups.keep..] {
        picked_on[group * size..][..size].fill(f64::from(groups.masked));
    }
}

/// Indices from the largest value to the smallest, the lower first where two are equal.
fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    // A stable sort.
    order.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).unwrap_or(Ordering::Equal));
    order
}

/// A head of an activation, turned by the angles of its pairs, which are those of its first values.
pub fn rope(head: &mut [f64], pairing: RopePairing, angles: &[f64]) {
    for (pair, angle) in angles.iter().enumerate() {
        let [first, second] = pairing.places(pair, angles.len());
        let ((sin, cos), a, b) = (angle.sin_cos(), head[first], head[second]);
        (head[first], head[second]) = (a * cos - b * sin, b * cos + a * sin);
    }
}

/// What a value of a gate becomes.
pub fn gate(function: GateFunction, z: f64) -> f64 {
    match function {
        GateFunction::Sigmoid => sigmoid(z),
        GateFunction::Softplus => z.max(0.0) + (-z.abs()).exp().ln_1p(),
    }
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar_expert(gate: f32, up: f32, down: f32) -> Expert<Matrix, Vec<f32>> {
        let linear =
            |value| Linear { weight: Matrix::from_vec(1, 1, vec![value]).unwrap(), bias: None };
        Expert { gate_proj: Some(linear(gate)), up_proj: linear(up), down_proj: linear(down) }
    }

    #[test]
    fn one_token_through_two_scalar_experts_by_hand() {
        let layer = [scalar_expert(1.0, 2.0, 3.0), scalar_expert(-1.0, 1.0, 1.0)];
        let x = Tensor::from_vec(1, 1, vec![0.5]).unwrap();
        let routing = Routing::new(3, vec![1, 0, 2], vec![0.25, 0.5, 9.0]).unwrap();
        let silu = |z: f64| z / (1.0 + (-z).exp());
        let expected = 0.25 * silu(-0.5) * 0.5 + 0.5 * silu(0.5) * 1.0 * 3.0;
        let out = experts(&layer, Activation::Silu, &x, &routing);
        assert!((out[0] - expected).abs() < 1e-15);
    }

    #[test]
    fn attention_with_a_sink_by_hand() {
        let (ln_2, keys, values) =
            (std::f32::consts::LN_2, [[0.0], [2.0]], [[1.0, 0.0], [0.0, 5.0]]);
        let [keys, values] =
            [keys.each_ref().map(|k: &[f32; 1]| &k[..]), [&values[0][..], &values[1]]];
        // Weights 1 and 4, and 5 of the sink.
        for (sink, total) in [(None, 5.0), (Some(5.0_f32.ln()), 10.0)] {
            let out = attention(&[2.0], [&keys, &values], 0.5 * ln_2, sink);
            for (out, expected) in out.iter().zip([1.0 / total, 4.0 * 5.0 / total]) {
                assert!((out - expected).abs() < 1e-6, "{out}, expected {expected}");
            }
        }
        assert_eq!(softmax(&[0.0, -1e9], Some(-1e9)), [1.0, 0.0]);
        assert_eq!(softmax(&[0.0], Some(1e9)), [0.0]);
    }

    #[test]
    fn routing_takes_the_largest_and_the_lower_id_of_equals() {
        let spec = RouterSpec::softmax(2, true);
        let chosen = route(&[1.0, 2.0, 2.0, 0.0], &spec, None, None);
        assert_eq!(chosen, [(1, 0.5), (2, 0.5)]);
        let spec = RouterSpec::softmax(1, false).with_scale(3.0);
        assert_eq!(route(&[-0.0, 0.0], &spec, None, Some(&[0.5, 9.0])), [(0, 0.75)]);
    }

    fn assert_near(got: &[(u32, f64)], expected: &[(u32, f64)]) {
        let near = |(got, expected): (&(u32, f64), &(u32, f64))| {
            got.0 == expected.0 && (got.1 - expected.1).abs() < 1e-15 * expected.1.abs().max(1.0)
        };
        let all = got.len() == expected.len() && got.iter().zip(expected).all(near);
        assert!(all, "{got:?}, expected {expected:?}");
    }

    #[test]
    fn a_bias_picks_and_does_not_weigh() {
        let logits = [2.0, 1.0, 0.0, -1.0];
        let bias = [0.0, -1.0, 1.0, 0.0];
        let s = |z: f64| 1.0 / (1.0 + (-z).exp());
        // Scores 0.88, 0.73, 0.5, 0.27; with the bias 0.88, -0.27, 1.5, 0.27.
        let spec = RouterSpec::sigmoid(3);
        let expected = [(2, 0.5), (0, s(2.0)), (3, s(-1.0))];
        assert_near(&route(&logits, &spec, Some(&bias), None), &expected);
        // Logits with the bias 2, 0, 1, -1.
        let spec = spec.picking_on(PickOn::Logits);
        let expected = [(0, s(2.0)), (2, 0.5), (1, s(1.0))];
        assert_near(&route(&logits, &spec, Some(&bias), None), &expected);
        // The sum plus epsilon is 1.
        let spec = RouterSpec::sigmoid(1).with_normalise(0.5).with_scale(3.0);
        assert_near(&route(&logits, &spec, Some(&bias), None), &[(2, 1.5)]);
        // Of all experts, the kept and the others.
        let spec = RouterSpec::softmax(1, false);
        let total: f64 = logits.iter().map(|z: &f64| z.exp()).sum();
        assert_near(&route(&logits, &spec, Some(&bias), None), &[(2, 1.0 / total)]);
    }

    #[test]
    fn experts_outside_the_best_groups_are_masked() {
        let logits = [3.0, -9.0, 2.0, 1.0, 2.5, -2.0];
        let chosen = |top_k, keep, best, masked, bias: Option<&[f64]>| {
            let groups = ExpertGroups { count: 3, keep, best, masked };
            let spec = RouterSpec::sigmoid(top_k).with_groups(groups);
            route(&logits, &spec, bias, None).iter().map(|pair| pair.0).collect::<Vec<_>>()
        };
        let never = f32::NEG_INFINITY;
        // By the best of each group 0 and 2 are kept; by the best two, 1 and 2.
        assert_eq!(chosen(3, 2, 1, never, None), [0, 4, 5]);
        assert_eq!(chosen(3, 2, 2, never, None), [4, 2, 3]);
        assert_eq!(chosen(2, 1, 2, never, None), [2, 3]);
        assert_eq!(chosen(6, 3, 2, never, None), [0, 4, 2, 3, 5, 1]);
        // A negative bias of those that are kept lets a masked 0 be picked, its lowest id first.
        let bias = [0.0, 0.0, 1.0, -0.9, 0.0, 0.0];
        assert_eq!(chosen(2, 1, 1, never, Some(&bias)), [2, 3]);
        assert_eq!(chosen(2, 1, 1, 0.0, Some(&bias)), [2, 0]);
    }

    #[test]
    fn the_root_of_softplus_neither_overflows_nor_vanishes() {
        for z in [-700.0_f64, -1.0, 0.0, 1.0, 30.0, 700.0] {
            // ln(1 + e^z) is e^z for the first and z for the last, to all digits.
            let expected = match z {
                ..-100.0 => (z / 2.0).exp(),
                100.0.. => z.sqrt(),
                _ => (1.0 + z.exp()).ln().sqrt(),
            };
            let [got] = scores(&[z], Score::SqrtSoftplus)[..] else { panic!() };
            assert!((got / expected - 1.0).abs() < 1e-12, "{z}");
        }
    }

    #[test]
    fn the_clamped_swiglu_clamps_both_inputs() {
        let activation = Activation::ClampedSwiglu { alpha: 1.702, limit: 7.0 };
        let at_limit = activate_gated(activation, 7.0, -7.0);
        assert_eq!(activate_gated(activation, 9.0, -9.0), at_limit);
        assert!((at_limit - (-6.0 * 7.0 / (1.0 + (-1.702_f32 as f64 * 7.0).exp()))).abs() < 1e-12);
    }

    #[test]
    fn the_clamped_silu_clamps_its_gate_from_above_and_its_up_from_both_sides() {
        let at = |gate, up| activate_gated(Activation::ClampedSilu { limit: 2.0 }, gate, up);
        let silu = |z: f64| z / (1.0 + (-z).exp());
        for (gate, up, expected) in [
            (1.0, 1.5, silu(1.0) * 1.5),
            (3.0, 5.0, silu(2.0) * 2.0),
            (3.0, -5.0, silu(2.0) * -2.0),
            (-3.0, 5.0, silu(-3.0) * 2.0),
        ] {
            assert!((at(gate, up) - expected).abs() < 1e-15, "{gate}, {up}");
        }
        assert_eq!(activate(Activation::ClampedSilu { limit: 2.0 }, 3.0), silu(2.0));
    }
}
