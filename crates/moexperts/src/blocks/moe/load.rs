//! Experts from a checkpoint, on the host: the same views however they are stored.

use moexperts_core::{Device, Expert, Linear, Matrix};

use super::names::{ExpertNames, ExpertsSize, FusedExperts, GateUpDown};
use crate::{error::Result, weights::Weights};

type HostExpert = Expert<Matrix, Vec<f32>>;

/// Experts that are stored one by one.
pub(super) fn separate<D: Device>(
    experts: usize,
    names: &ExpertNames,
    module: &str,
    weights: &mut Weights<'_, D>,
) -> Result<Vec<HostExpert>> {
    let [gate_proj, up_proj, down_proj] =
        [names.gate_proj, names.up_proj, names.down_proj].map(|name| names.of_each(module, name));
    let names = [&gate_proj, &up_proj, &down_proj].map(|name| format!("{name}.weight"));
    weights.with_experts_dtype(module, &names, |weights| {
        let expert = |expert: usize| {
            let mut load = |name: &str| weights.host_linear(name, Some(expert));
            Ok(Expert {
                gate_proj: Some(load(&gate_proj)?),
                up_proj: load(&up_proj)?,
                down_proj: load(&down_proj)?,
            })
        };
        (0..experts).map(expert).collect()
    })
}

/// Experts that are stored as one tensor for each projection.
pub(super) fn fused<D: Device>(
    size: ExpertsSize,
    bias: bool,
    names: &FusedExperts,
    module: &str,
    weights: &mut Weights<'_, D>,
) -> Result<Vec<HostExpert>> {
    let ExpertsSize { inner, hidden, .. } = size;
    let GateUpDown { gate_up, down } = names.projections(size, module);
    let stacks = [gate_up.0.clone(), down.0.clone()];
    let (gate_up, down) = weights.with_experts_dtype(module, &stacks, |weights| {
        Ok((weights.stack(&gate_up.0)?, weights.stack(&down.0)?))
    })?;
    let biases = match bias {
        true => {
            let GateUpDown { gate_up, down } = names.biases(size, module);
            Some(GateUpDown {
                gate_up: weights.host_vector(&gate_up.0)?,
                down: weights.host_vector(&down.0)?,
            })
        }
        false => None,
    };
    let experts = gate_up.iter().zip(down).enumerate().map(|(index, (gate_up, down))| {
        let half = |second: usize| match names.interleaved {
            true => gate_up.rows_stepped(second..2 * inner, 2),
            false => gate_up.row_range(second * inner..(second + 1) * inner),
        };
        let half_bias = |second: usize| {
            let all = &biases.as_ref()?.gate_up[index * 2 * inner..(index + 1) * 2 * inner];
            Some(match names.interleaved {
                true => all.iter().copied().skip(second).step_by(2).collect(),
                false => all[second * inner..(second + 1) * inner].to_vec(),
            })
        };
        let down_bias = biases
            .as_ref()
            .map(|biases| biases.down[index * hidden..(index + 1) * hidden].to_vec());
        Expert {
            gate_proj: Some(Linear { weight: half(0), bias: half_bias(0) }),
            up_proj: Linear { weight: half(1), bias: half_bias(1) },
            down_proj: Linear { weight: down, bias: down_bias },
        }
    });
    Ok(experts.collect())
}
