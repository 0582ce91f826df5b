//! The knobs change how fast [`Cpu`] is: results stay within the tolerance, and all but one knob
//! change no bit.

use crate::common::{bits, devices_by_threads, linear, tensor, values};
use moexperts_conformance::{
    Bounded, Case, GateUpLayout, Layer, Mismatch, Routes, RoutingWeights, Tolerance, Values, cases,
};
use moexperts_core::{
    DType, Execution, Experts, ExpertsBackend, ExpertsCall, ExpertsSpec, Linear, Matrix, Routing,
    Scratch, Tensor, Tuning, reference,
};
use moexperts_cpu::Cpu;

/// The knob that decides which rows pass through panels, whose sums have another order.
const OTHER_ORDER: &str = "panel_rows";

/// The device with each of its knobs at each of its values, and whether that changes no bit.
fn turned(cpu: &Cpu) -> Vec<(Cpu, String, bool)> {
    let mut turned = Vec::new();
    for (index, knob) in cpu.knobs().iter().enumerate() {
        for &value in knob.values {
            let (isa, threads) = (cpu.isa(), cpu.thread_count());
            let what = format!("{isa}, {threads} threads, {} at {value}", knob.name);
            let same = knob.name != OTHER_ORDER || value == knob.default;
            turned.push((cpu.with_knob(index, value), what, same));
        }
    }
    turned
}

#[test]
fn a_linear_layer_is_the_same_at_every_setting() {
    // Several blocks of panels, whose columns do not fit the smallest setting at once.
    let (tokens, inputs, outputs) = (130, 700, 203);
    let all = tensor(tokens, inputs, 1);
    let x: Vec<Tensor> = (1..=20)
        .chain([40, tokens])
        .map(|rows| Tensor::from_vec(rows, inputs, all.data()[..rows * inputs].to_vec()).unwrap())
        .collect();
    for dtype in DType::ALL {
        let weight =
            Matrix::from_f32(outputs, inputs, &values(outputs * inputs, 2), dtype).unwrap();
        let layer = Linear { weight, bias: Some(values(outputs, 3)) };
        let (mut expected, mut allowance) = (Vec::new(), Vec::new());
        for token in 0..tokens {
            let row: Vec<f64> = all.row(token).iter().map(|&x| f64::from(x)).collect();
            let exact: Vec<Bounded> = row.iter().map(|&x| Bounded::exact(x)).collect();
            expected.extend(reference::linear(&layer, &row));
            let allowed = Tolerance::new(dtype).linear(&layer, &exact);
            allowance.extend(allowed.iter().map(|allowed| allowed.error));
        }
        for [cpu, _, three] in devices_by_threads() {
            let plain: Vec<_> =
                x.iter().map(|x| bits(linear(&cpu, x, &layer).unwrap().data())).collect();
            for (cpu, what, same) in turned(&cpu).into_iter().chain(turned(&three)) {
                for (x, plain) in x.iter().zip(&plain) {
                    let (out, len) = (linear(&cpu, x, &layer).unwrap(), x.rows() * outputs);
                    Mismatch::find(out.data(), &expected[..len], &allowance[..len], outputs)
                        .unwrap_or_else(|at| panic!("{what}, {dtype}, {} rows: {at:?}", x.rows()));
                    assert!(
                        !same || bits(out.data()) == *plain,
                        "{what}, {dtype}, {} rows: other bits",
                        x.rows()
                    );
                }
            }
        }
    }
}

/// An expert has several panels, whose columns do not fit the smallest setting at once.
fn wide(dtype: DType) -> Case {
    Case {
        name: "wide",
        tokens: 36,
        top_k: 2,
        spec: ExpertsSpec::gated_silu(600, 290, 2, dtype.into()),
        gate_up: GateUpLayout::Separate,
        values: Values::Ordinary,
        routes: Routes::Distinct,
        routing_weights: RoutingWeights::Normalised,
        seed: 1,
    }
}

#[test]
fn an_experts_layer_is_the_same_at_every_setting() {
    let settings = |devices: [Cpu; 3]| (turned(&devices[2]), devices);
    let devices: Vec<_> = devices_by_threads().map(settings).collect();
    let names = ["shape", "routing of many tokens"];
    let chosen = cases().into_iter().filter(|case| names.contains(&case.name));
    for case in chosen.chain(DType::ALL.map(wide)) {
        let Layer { experts, x, routing } = &Layer::new(&case);
        let activation = case.spec.activation;
        let expected = reference::experts(experts, activation, x, routing);
        let allowance = Tolerance::new(case.spec.format).experts(experts, activation, x, routing);
        for (turned, [cpu, ..]) in &devices {
            let loaded = Experts::load(cpu, case.spec, experts.clone()).unwrap();
            for backend in Cpu::built_in_experts() {
                let forward = |device: &Cpu| forward(&*backend, device, &loaded, x, routing);
                let plain = bits(&forward(cpu));
                for (cpu, what, same) in turned {
                    let out = forward(cpu);
                    let what = || format!("{} with {what}, {case}", backend.name());
                    Mismatch::find(&out, &expected, &allowance, case.spec.hidden)
                        .unwrap_or_else(|at| panic!("{}: {at:?}", what()));
                    assert!(!*same || bits(&out) == plain, "{}: other bits", what());
                }
            }
        }
    }
}

fn forward(
    backend: &dyn ExpertsBackend<Cpu>,
    device: &Cpu,
    experts: &Experts<Cpu>,
    x: &Tensor,
    routing: &Routing,
) -> Vec<f32> {
    let mut out = Tensor::zeros(x.rows(), x.cols());
    let scratch = &mut Scratch::default();
    backend.forward(ExpertsCall { device, experts, x, routing, scratch }, &mut out).unwrap();
    out.into_vec()
}
