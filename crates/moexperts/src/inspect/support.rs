//! Which experts each backend runs, as its own `check` says.

use moexperts_core::{Activation, DType, Device, ExpertsInterface, ExpertsSpec, WeightFormat};

/// What one backend runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendSupport {
    /// Its name.
    pub backend: String,
    /// Each property of experts and whether it runs experts that have it: the same properties, in
    /// the same order, for every backend.
    pub properties: Vec<(&'static str, bool)>,
}

/// Asks the backends of a device, in the order of their names in [`ExpertsInterface`].
///
/// They are asked about one property at a time, on gated silu experts in f32.
pub fn support<D: Device>(device: &D) -> Vec<BackendSupport> {
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

#[cfg(test)]
mod tests {
    use moexperts_cpu::{Cpu, CpuOptions};

    use super::*;

    #[test]
    fn every_backend_is_asked_everything() {
        let cpu = Cpu::new(CpuOptions { threads: 1.try_into().ok(), isa: None }).unwrap();
        let support = support(&cpu);
        let asked: Vec<&str> = questions().iter().map(|(property, _)| *property).collect();
        assert!(support.len() >= 3);
        for BackendSupport { backend, properties } in &support {
            assert!(properties.iter().map(|(property, _)| *property).eq(asked.iter().copied()));
            for told in [("bf16", true), ("biases", true)] {
                assert!(properties.contains(&told), "{backend}: {told:?}");
            }
        }
    }
}
