//! The formulas in plain f64 loops, to read and to test against; never optimised.

use crate::{Activation, Expert, Linear, Matrix, RouterSpec, Routing, Tensor};

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

/// Softmax over all experts, the K largest, and their weights, for router logits of one token.
///
/// # Panics
/// If K is larger than the number of logits.
pub fn route(logits: &[f64], spec: &RouterSpec) -> Vec<(u32, f64)> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let total: f64 = exps.iter().sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| exps[b].total_cmp(&exps[a]).then(a.cmp(&b)));
    let chosen = &order[..spec.top_k];
    let kept: f64 = chosen.iter().map(|&id| exps[id]).sum();
    let divisor = if spec.norm_topk_prob { kept } else { total };
    chosen.iter().map(|&id| (id as u32, exps[id] / divisor)).collect()
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
    fn routing_takes_the_largest_and_the_lower_id_of_equals() {
        let spec = RouterSpec { top_k: 2, norm_topk_prob: true };
        let chosen = route(&[1.0, 2.0, 2.0, 0.0], &spec);
        assert_eq!(chosen, [(1, 0.5), (2, 0.5)]);
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
