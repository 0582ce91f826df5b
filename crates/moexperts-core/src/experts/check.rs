//! Whether weights and calls are those of a description.

use crate::{
    error::{Error, Result},
    experts::{expert::Expert, spec::ExpertsSpec},
    shapes::{length, shape},
    weights::{Linear, Weight},
};

/// Whether the hidden states `x`, a routing of [T, K] and a result are those of an experts layer.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape).
pub fn call(spec: &ExpertsSpec, x: [usize; 2], routing: [usize; 2], out: [usize; 2]) -> Result<()> {
    let ([tokens, _], [_, top_k]) = (x, routing);
    shape("hidden_states", x, [tokens, spec.hidden])?;
    if top_k > 0 {
        shape("top_k_index", routing, [tokens, top_k])?;
    }
    shape("out", out, [tokens, spec.hidden])
}

/// Whether the weights are those of `spec`. `len` gives the length of a bias; where it is `None`,
/// only the presence of the bias is checked.
///
/// # Errors
/// [`Error::Count`], [`Error::Shape`], [`Error::Format`], or [`Error::Value`] of a projection or
/// bias that is missing, or must not be there.
pub(crate) fn weights<M: Weight, V>(
    spec: &ExpertsSpec,
    experts: &[Expert<M, V>],
    len: impl Fn(&V) -> Option<usize>,
) -> Result<()> {
    if experts.len() != spec.experts {
        return Err(Error::count("experts", spec.experts, experts.len()));
    }
    let (hidden, intermediate) = (spec.hidden, spec.intermediate);
    for (index, expert) in experts.iter().enumerate() {
        let linear = |name: &str, linear: &Linear<M, V>, [outputs, inputs]: [usize; 2]| {
            check_linear(spec, || format!("expert {index} {name}"), linear, [outputs, inputs], &len)
        };
        match (spec.gated, &expert.gate_proj) {
            (true, Some(gate)) => linear("gate_proj", gate, [intermediate, hidden])?,
            (false, None) => {}
            (gated, _) => {
                let shape = [intermediate, hidden];
                return Err(presence(format!("expert {index} gate_proj"), gated, &shape));
            }
        }
        linear("up_proj", &expert.up_proj, [intermediate, hidden])?;
        linear("down_proj", &expert.down_proj, [hidden, intermediate])?;
    }
    Ok(())
}

fn check_linear<M: Weight, V>(
    spec: &ExpertsSpec,
    what: impl Fn() -> String,
    linear: &Linear<M, V>,
    [outputs, inputs]: [usize; 2],
    len: impl Fn(&V) -> Option<usize>,
) -> Result<()> {
    let got = [linear.weight.rows(), linear.weight.cols()];
    if got != [outputs, inputs] {
        return Err(Error::shape(what(), [outputs, inputs], got));
    }
    if linear.weight.format() != spec.format {
        let got = linear.weight.format();
        return Err(Error::Format { what: what(), expected: spec.format, got });
    }
    if linear.bias.is_some() != spec.bias {
        return Err(presence(format!("{} bias", what()), spec.bias, &[outputs]));
    }
    match linear.bias.as_ref().and_then(len) {
        Some(got) if got != outputs => length(&format!("{} bias", what()), got, outputs),
        _ => Ok(()),
    }
}

/// The error of a tensor that is missing where one of this shape is expected, or present where none
/// is.
fn presence(what: String, expected: bool, shape: &[usize]) -> Error {
    let [expected, got] = match expected {
        true => [format!("{shape:?}"), "missing".to_owned()],
        false => ["none".to_owned(), "present".to_owned()],
    };
    Error::Value { what, expected, got }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{Matrix, WeightFormat};

    fn linear(rows: usize, cols: usize) -> Linear<Matrix, Vec<f32>> {
        let weight = Matrix::from_vec(rows, cols, vec![0.0_f32; rows * cols]).unwrap();
        Linear { weight, bias: None }
    }

    #[test]
    fn weights_that_differ_from_the_description_are_refused() {
        let expert = Expert {
            gate_proj: Some(linear(2, 4)),
            up_proj: linear(2, 4),
            down_proj: linear(4, 2),
        };
        let refused = |spec: ExpertsSpec, experts: &[Expert<Matrix, Vec<f32>>]| {
            let result = weights(&spec, experts, |bias: &Vec<f32>| Some(bias.len()));
            result.err().map(|error| error.to_string())
        };
        let spec = ExpertsSpec::gated_silu(4, 2, 1, WeightFormat::F32);
        let experts = std::slice::from_ref(&expert);
        assert_eq!(refused(spec, experts), None);
        for (spec, expected) in [
            (spec.with_experts(2), "expected 2 experts, got 1"),
            (spec.ungated(), "expert 0 gate_proj is present, expected none"),
            (spec.with_bias(), "expert 0 gate_proj bias is missing, expected [2]"),
            (
                spec.with_format(WeightFormat::BF16),
                "expert 0 gate_proj has format f32, expected bf16",
            ),
            (
                ExpertsSpec { hidden: 3, ..spec },
                "expert 0 gate_proj has shape [2, 4], expected [2, 3]",
            ),
        ] {
            assert_eq!(refused(spec, experts).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_missing_gate_and_a_short_bias_are_refused() {
        let spec = ExpertsSpec::gated_silu(4, 2, 1, WeightFormat::F32);
        let ungated = Expert { gate_proj: None, up_proj: linear(2, 4), down_proj: linear(4, 2) };
        let refused = |spec: ExpertsSpec, expert: &Expert<Matrix, Vec<f32>>| {
            weights(&spec, std::slice::from_ref(expert), |bias: &Vec<f32>| Some(bias.len()))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(refused(spec, &ungated), "expert 0 gate_proj is missing, expected [2, 4]");
        let mut biased = ungated;
        biased.up_proj.bias = Some(vec![0.0; 3]);
        let spec = spec.ungated().with_bias();
        assert_eq!(refused(spec, &biased), "expert 0 up_proj bias has shape [3], expected [2]");
    }

    #[test]
    fn shapes_of_a_call_agree_and_no_experts_per_token_fit_any_tokens() {
        let spec = ExpertsSpec::gated_silu(4, 2, 3, WeightFormat::F32);
        assert!(call(&spec, [5, 4], [0, 0], [5, 4]).is_ok());
        assert!(call(&spec, [5, 4], [5, 2], [5, 4]).is_ok());
        let errors = [
            call(&spec, [5, 3], [5, 2], [5, 4]),
            call(&spec, [5, 4], [4, 2], [5, 4]),
            call(&spec, [5, 4], [5, 2], [5, 3]),
        ];
        for (error, what) in errors.into_iter().zip(["hidden_states", "top_k_index", "out"]) {
            assert!(error.unwrap_err().to_string().starts_with(what), "{what}");
        }
    }
}
