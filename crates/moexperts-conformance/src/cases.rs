//! The cases.

use moexperts_core::{Activation, ExpertsSpec, WeightFormat};
use proptest::prelude::*;

use crate::case::{Case, GateUpLayout, Routes, RoutingWeights, Values};

const LAYOUTS: [GateUpLayout; 3] =
    [GateUpLayout::Separate, GateUpLayout::Concatenated, GateUpLayout::Interleaved];

const WEIGHTS: [RoutingWeights; 4] =
    [RoutingWeights::Normalised, RoutingWeights::Signed, RoutingWeights::Zero, RoutingWeights::One];

/// [T, H, I, E, K]: edges of blocks and vectors, one more and one less, primes, and K up to E.
const SHAPES: [[usize; 5]; 24] = [
    [0, 8, 8, 4, 2],
    [1, 1, 1, 1, 1],
    [1, 5, 1, 3, 1],
    [1, 1, 5, 3, 3],
    [1, 17, 33, 4, 2],
    [1, 64, 64, 8, 8],
    [1, 67, 129, 16, 4],
    [2, 33, 5, 8, 3],
    [2, 16, 16, 2, 1],
    [3, 67, 17, 5, 4],
    [3, 16, 32, 8, 5],
    [4, 31, 63, 3, 2],
    [5, 8, 67, 7, 7],
    [7, 32, 48, 8, 6],
    [8, 65, 15, 9, 8],
    [11, 64, 64, 4, 2],
    [15, 9, 7, 128, 8],
    [31, 33, 67, 6, 2],
    [31, 64, 32, 16, 8],
    [33, 128, 48, 8, 2],
    [48, 24, 64, 1, 1],
    [49, 20, 65, 2, 1],
    [64, 32, 32, 4, 1],
    [130, 16, 16, 2, 2],
];

/// Enough work that threads share it, and several blocks in every direction.
const BIG: [usize; 5] = [97, 160, 136, 6, 4];

/// Every case, in a stable order.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &format in WeightFormat::ALL {
        for (index, shape) in SHAPES.into_iter().enumerate() {
            let mut case = case("shape", shape, format);
            case.gate_up = LAYOUTS[index % LAYOUTS.len()];
            case.spec.bias = index % 4 > 1;
            case.values = [Values::Ordinary, Values::Unrounded][index % 2];
            case.seed = index as u64;
            cases.push(case);
        }
        let mut big = case("big", BIG, format);
        big.spec.bias = true;
        cases.push(Case { routing_weights: RoutingWeights::Signed, ..big });
        add_kinds(&mut cases, format);
        add_routings(&mut cases, format);
        add_probes(&mut cases, format);
        add_unusual(&mut cases, format);
    }
    cases
}

/// A case of gated silu experts, routed as a router does.
fn case(
    name: &'static str,
    [tokens, hidden, intermediate, experts, top_k]: [usize; 5],
    format: WeightFormat,
) -> Case {
    Case {
        name,
        tokens,
        top_k,
        spec: ExpertsSpec::gated_silu(hidden, intermediate, experts, format),
        gate_up: GateUpLayout::Separate,
        values: Values::Ordinary,
        routes: Routes::Distinct,
        routing_weights: RoutingWeights::Normalised,
        seed: 1,
    }
}

/// Which experts with this activation exist: with a gate, without one, or both.
fn gatings(activation: Activation) -> &'static [bool] {
    if activation.needs_gate() { &[true] } else { &[true, false] }
}

/// Activation × gated × bias × layout, at ordinary and at large values.
fn add_kinds(cases: &mut Vec<Case>, format: WeightFormat) {
    for activation in Activation::ALL {
        for &gated in gatings(activation) {
            for bias in [false, true] {
                for &gate_up in if gated { &LAYOUTS[..] } else { &LAYOUTS[..1] } {
                    let mut case = case("kind", [5, 33, 17, 4, 2], format);
                    (case.spec.gated, case.spec.activation) = (gated, activation);
                    (case.spec.bias, case.gate_up) = (bias, gate_up);
                    let large =
                        Case { name: "large values", values: Values::Large, ..case.clone() };
                    cases.extend([case, large]);
                }
            }
        }
    }
}

/// Routes × routing weights.
fn add_routings(cases: &mut Vec<Case>, format: WeightFormat) {
    for (index, routes) in Routes::ALL.into_iter().enumerate() {
        for routing_weights in WEIGHTS {
            let seed = index as u64;
            let base = case("routing", [9, 19, 23, 7, 4], format);
            cases.push(Case { routes, routing_weights, seed, ..base });
        }
        let base = case("routing of many tokens", [70, 24, 40, 5, 3], format);
        cases.push(Case { routes, ..base });
    }
}

/// Layers in which every weight is seen alone.
fn add_probes(cases: &mut Vec<Case>, format: WeightFormat) {
    for values in [Values::InputProbe, Values::DownProbe] {
        for activation in Activation::ALL {
            for &gated in gatings(activation) {
                let [hidden, intermediate, experts] = [37, 35, 3];
                let shape = [hidden * experts, hidden, intermediate, experts, 1];
                let mut case = case("probe", shape, format);
                (case.spec.gated, case.spec.activation) = (gated, activation);
                if gated {
                    case.gate_up = LAYOUTS[cases.len() % 3];
                }
                let routing_weights = RoutingWeights::One;
                cases.push(Case { values, routes: Routes::InTurn, routing_weights, ..case });
            }
        }
    }
}

/// Cases that a backend may refuse, in its `check` and its `forward`.
fn add_unusual(cases: &mut Vec<Case>, format: WeightFormat) {
    let base = case("unusual", [5, 33, 17, 4, 2], format);
    let gated_alone = Activation::ALL.into_iter().filter(|activation| activation.needs_gate());
    let specs = gated_alone.map(|activation| base.spec.ungated().with_activation(activation));
    cases.extend(specs.map(|spec| Case { spec, ..base.clone() }));
}

/// Draws any small case; it shrinks towards few and short tokens.
pub fn arbitrary_case() -> impl Strategy<Value = Case> {
    let shape = (0_usize..40, 1_usize..80, 1_usize..80, 1_usize..12, 1_usize..=8);
    let kind = (
        prop::sample::select(WeightFormat::ALL),
        prop::sample::select(&Activation::ALL[..]),
        any::<bool>(),
        any::<bool>(),
        prop::sample::select(&LAYOUTS[..]),
    );
    let drawn = (
        prop::sample::select(&[Values::Ordinary, Values::Unrounded, Values::Large][..]),
        prop::sample::select(&Routes::ALL[..]),
        prop::sample::select(&WEIGHTS[..]),
        any::<u64>(),
    );
    (shape, kind, drawn).prop_map(|(shape, kind, drawn)| {
        let (tokens, hidden, intermediate, experts, top_k) = shape;
        let (format, activation, gated, bias, gate_up) = kind;
        let (values, routes, routing_weights, seed) = drawn;
        let gated = gated || activation.needs_gate();
        let gate_up = if gated { gate_up } else { GateUpLayout::Separate };
        let mut base = case("arbitrary", [tokens, hidden, intermediate, experts, top_k], format);
        (base.spec.activation, base.spec.gated, base.spec.bias) = (activation, gated, bias);
        Case { gate_up, values, routes, routing_weights, seed, ..base }
    })
}
