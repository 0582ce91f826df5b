//! Which experts each backend runs, as its own `check` says.

use moexperts::{
    Activation, DType, Device, ExpertsInterface, ExpertsSpec,
    core::{GateUpLayout, Orientation},
};

/// What backends are asked about: one property at a time, on gated silu experts in f32.
fn questions() -> Vec<(&'static str, ExpertsSpec)> {
    let base = ExpertsSpec::gated_silu(64, 32, 4, DType::F32);
    let dtypes = DType::ALL.map(|dtype| (dtype.name(), ExpertsSpec { dtype, ..base }));
    let activations =
        Activation::ALL.map(|activation| (activation.name(), ExpertsSpec { activation, ..base }));
    let rest = [
        ("no gate", ExpertsSpec { gated: false, ..base }),
        ("biases", ExpertsSpec { bias: true, ..base }),
        ("gate before up", ExpertsSpec { gate_up: GateUpLayout::Concatenated, ..base }),
        ("gate, up in turn", ExpertsSpec { gate_up: GateUpLayout::Interleaved, ..base }),
        ("stored [in, out]", ExpertsSpec { orientation: Orientation::InOut, ..base }),
        ("norm after", ExpertsSpec { post_expert_norm: true, ..base }),
    ];
    dtypes.into_iter().chain(activations).chain(rest).collect()
}

/// A line a property, a column a backend.
pub(super) fn support<D: Device>(device: &D) -> String {
    let questions = questions();
    let width = questions.iter().map(|(property, _)| property.len()).max().unwrap_or(0);
    let backends = ExpertsInterface::all::<D>();
    let row = |property: &str, answers: Vec<String>| -> String {
        let line = format!("  {property:width$}  {}", answers.join("  "));
        format!("{}\n", line.trim_end())
    };
    let mut lines = row("", backends.iter().map(|backend| backend.name().to_owned()).collect());
    for (property, spec) in &questions {
        let answers = backends.iter().map(|backend| {
            let answer = if backend.check(spec, device).is_ok() { "yes" } else { "-" };
            format!("{answer:width$}", width = backend.name().len())
        });
        lines += &row(property, answers.collect());
    }
    lines
}
