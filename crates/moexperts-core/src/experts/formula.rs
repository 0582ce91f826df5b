//! The formula of an experts layer.

use crate::{
    experts::expert::Expert,
    operations::{
        elementwise::{Activation, activate, activate_gated},
        linear::formula as linear,
    },
    routing::Routing,
    tensor::Tensor,
    weights::Matrix,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Linear;

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
}
