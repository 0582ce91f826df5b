//! Every built-in backend at every instruction set of this machine against the conformance suite.

use crate::common::{bits, devices, devices_by_threads};
use moexperts_conformance::{
    Layer, agree, agree_exactly, arbitrary_case, cases, check_case, run, same_bits,
};
use moexperts_core::{
    Activation, Execution, Experts, ExpertsBackend, ExpertsCall, ExpertsSpec, Routing, Scratch,
    Tensor, WeightFormat,
};
use moexperts_cpu::Cpu;
use proptest::prelude::*;

#[test]
fn every_backend_passes_every_case_at_every_instruction_set() {
    for cpu in devices() {
        for backend in Cpu::built_in_experts() {
            let report =
                run(&*backend, &cpu).unwrap_or_else(|failure| panic!("{}: {failure}", cpu.isa()));
            // Only these experts may be refused: no CPU backend has their kinds.
            let refused = cases().iter().filter(|case| case.name == "unusual").count();
            assert_eq!(report.refused.len(), refused, "{}: {report}", cpu.isa());
            assert!(report.refused.iter().all(|refusal| refusal.case.name == "unusual"));
            assert_eq!(report.passed, cases().len() - refused);
        }
    }
}

#[test]
fn an_activation_that_needs_a_gate_is_refused_without_one() {
    let cpu = &devices().next().unwrap();
    for backend in Cpu::built_in_experts() {
        for activation in Activation::ALL {
            let spec = ExpertsSpec::gated_silu(8, 8, 2, WeightFormat::F32);
            let spec = spec.ungated().with_activation(activation);
            let refused = backend.check(&spec, cpu).err().map(|error| error.to_string());
            let expected = activation.needs_gate().then(|| {
                let (backend, activation) = (backend.name(), activation.name());
                format!(
                    "experts implementation `{backend}` cannot run these experts on CPU: \
                     the {activation} needs a gate projection"
                )
            });
            assert_eq!(refused, expected);
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for devices in devices_by_threads() {
        for backend in Cpu::built_in_experts() {
            let report = same_bits(&*backend, &devices)
                .unwrap_or_else(|failure| panic!("{}: {failure}", devices[0].isa()));
            assert!(report.passed > 0);
        }
    }
}

#[test]
fn the_backends_agree_and_where_pairs_go_together_bit_for_bit() {
    for cpu in devices() {
        let all = Cpu::built_in_experts();
        let (together, alone): (Vec<_>, Vec<_>) =
            all.iter().cloned().partition(|backend| backend.name() != "batched_mm");
        assert_eq!((together.len(), alone.len()), (2, 1));
        let reports = [agree_exactly(&together, &cpu), agree(&all, &cpu)];
        for report in reports {
            let report = report.unwrap_or_else(|failure| panic!("{}: {failure}", cpu.isa()));
            assert!(report.passed > 0);
        }
    }
}

#[test]
fn with_pairs_alone_a_token_has_the_bits_it_has_among_others() {
    for cpu in devices() {
        for &format in WeightFormat::ALL {
            let chosen = |name| move |case: &_| name_and_format(case) == (name, format);
            for name in ["big", "routing of many tokens"] {
                let case = cases().into_iter().find(chosen(name)).unwrap();
                let layer = Layer::new(&case);
                let experts = Experts::load(&cpu, case.spec, layer.experts.clone()).unwrap();
                let built_in = Cpu::built_in_experts();
                for backend in built_in.iter().filter(|backend| backend.name() == "batched_mm") {
                    let together = forward(&**backend, &cpu, &experts, &layer.x, &layer.routing);
                    for token in (0..case.tokens).step_by(7) {
                        let x = layer.x.row(token).to_vec();
                        let x = Tensor::from_vec(1, case.spec.hidden, x).unwrap();
                        let (ids, weights) = layer.routing.pairs(token).unzip();
                        let routing = Routing::new(case.top_k, ids, weights).unwrap();
                        let alone = forward(&**backend, &cpu, &experts, &x, &routing);
                        assert_eq!(bits(alone.data()), bits(together.row(token)), "{case}");
                    }
                }
            }
        }
    }
}

fn name_and_format(case: &moexperts_conformance::Case) -> (&'static str, WeightFormat) {
    (case.name, case.spec.format)
}

fn forward(
    backend: &dyn ExpertsBackend<Cpu>,
    device: &Cpu,
    experts: &Experts<Cpu>,
    x: &Tensor,
    routing: &Routing,
) -> Tensor {
    let mut out = Tensor::zeros(x.rows(), x.cols());
    let scratch = &mut Scratch::default();
    let call = ExpertsCall { device, experts, x, routing, scratch };
    backend.forward(call, &mut out).unwrap();
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_backend_passes_arbitrary_cases(case in arbitrary_case()) {
        for cpu in devices() {
            for backend in Cpu::built_in_experts() {
                let outcome = check_case(&*backend, &cpu, &case);
                prop_assert!(outcome.is_ok(), "{}: {}", cpu.isa(), outcome.unwrap_err());
            }
        }
    }
}
