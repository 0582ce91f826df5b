//! What a device has: kernels for formats of weights, activations, and so experts.

use crate::{
    device::execution::Device,
    error::{Error, Result, listed},
    experts::spec::ExpertsSpec,
    operations::Activation,
    weights::WeightFormat,
};

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
