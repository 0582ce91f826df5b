//! Which steps of a plan are alike, so that one measurement serves all of them.

use std::collections::BTreeMap;

use moexperts_core::{Device, Weight};

use crate::{
    compile::plan::Plan,
    graph::{Op, RunBy, Step},
};

/// Steps that are alike, by what they have in common.
pub(super) type Kinds = BTreeMap<String, Vec<usize>>;

/// A device with some knobs turned.
pub(super) fn with_knobs<D: Device>(device: &D, settings: &BTreeMap<String, usize>) -> D {
    let mut device = device.clone();
    for (index, knob) in device.knobs().iter().enumerate() {
        if let Some(&value) = settings.get(knob.name) {
            device = device.with_knob(index, value);
        }
    }
    device
}

/// The products of a plan, by kind.
pub(super) fn kinds<D: Device>(plan: &Plan<D>) -> Kinds {
    let mut kinds = Kinds::new();
    for (index, step) in plan.program.steps.iter().enumerate() {
        if let Some(key) = key(plan, step) {
            kinds.entry(key).or_default().push(index);
        }
    }
    kinds
}

/// What a product's speed depends on: `linear bf16 [2048+2048, 2048], 1 rows`.
fn key<D: Device>(plan: &Plan<D>, step: &Step<D>) -> Option<String> {
    let rows = step.rows;
    match &step.op {
        Op::Linear(linears) | Op::Router { linears, .. } => {
            let weight = &linears.first()?.weight;
            let outputs: Vec<String> =
                linears.iter().map(|linear| linear.weight.rows().to_string()).collect();
            let (outputs, inputs) = (outputs.join("+"), weight.cols());
            Some(format!("linear {} [{outputs}, {inputs}], {rows} rows", weight.format()))
        }
        Op::Experts { experts, run_by } => {
            let spec = experts.spec();
            let backend = match run_by {
                RunBy::Chosen => plan.backend.name.as_str(),
                RunBy::Fixed(backend) => backend.name(),
            };
            Some(format!(
                "experts {backend} {} H {} I {} E {} K {} {}, {rows} rows",
                spec.format,
                spec.hidden,
                spec.intermediate,
                spec.experts,
                step.experts_per_token(),
                spec.activation.name(),
            ))
        }
        _ => None,
    }
}

/// Bytes of all weights of a step.
pub(super) fn weight_bytes<D: Device>(step: &Step<D>) -> usize {
    match &step.op {
        Op::Linear(linears) | Op::Router { linears, .. } => {
            linears.iter().map(|linear| linear.weight.size_bytes()).sum()
        }
        Op::Experts { experts, .. } => experts.spec().experts * experts.spec().bytes_per_expert(),
        _ => 0,
    }
}
