//! Which experts each backend runs, as its `check` says.

use crate::{Activation, DType, Device, ExpertsInterface, ExpertsSpec, WeightFormat};

/// Which experts one backend runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendSupport {
    /// Its name.
    pub backend: String,
    /// Each property of experts and whether it runs experts that have it: the same properties, in
    /// the same order, for every backend.
    pub properties: Vec<(&'static str, bool)>,
}

/// Checks every backend of a device against one property of experts at a time, on gated silu experts
/// in f32; in the order of the names in [`ExpertsInterface`].
pub fn backend_support<D: Device>(device: &D) -> Vec<BackendSupport> {
    let questions = questions();
    let backends = ExpertsInterface::all::<D::Experts>();
    let answers = backends.iter().map(|backend| {
        let answer = |&(property, ref spec): &(&'static str, ExpertsSpec)| {
            (property, backend.check(spec, device.experts_device()).is_ok())
        };
        BackendSupport {
            backend: backend.name().to_owned(),
            properties: questions.iter().map(answer).collect(),
        }
    });
    answers.collect()
}

fn questions() -> Vec<(&'static str, ExpertsSpec)> {
    let base = ExpertsSpec::gated_silu(64, 32, 4, WeightFormat::F32);
    let formats = DType::ALL.map(|dtype| (dtype.name(), base.with_format(dtype.into())));
    let activations =
        Activation::ALL.map(|activation| (activation.name(), base.with_activation(activation)));
    let rest = [("no gate", base.ungated()), ("biases", base.with_bias())];
    formats.into_iter().chain(activations).chain(rest).collect()
}
