//! The tolerance holds for honest results and catches wrong ones, for every format.

use moexperts_conformance::{Case, GateUpLayout, Layer, Mismatch, Tolerance, Values, cases};
use moexperts_core::{
    Activation, DType, Expert, Linear, Matrix, Routing, Tensor, WeightFormat, reference,
};

type Experts = Vec<Expert<Matrix, Vec<f32>>>;

/// Judges results of the case.
fn judge(case: &Case, layer: &Layer) -> impl Fn(&[f32]) -> Result<(), Mismatch> {
    let Layer { experts, x, routing } = layer;
    let activation = case.spec.activation;
    let expected = reference::experts(experts, activation, x, routing);
    let allowance = Tolerance::new(case.spec.format).experts(experts, activation, x, routing);
    let hidden = case.spec.hidden;
    move |got| Mismatch::find(got, &expected, &allowance, hidden)
}

/// What a backend with f64 sums would give.
fn result(experts: &Experts, activation: Activation, x: &Tensor, routing: &Routing) -> Vec<f32> {
    reference::experts(experts, activation, x, routing).iter().map(|&v| v as f32).collect()
}

/// How a plain f32 implementation treats the inputs of a product and orders its sums.
#[derive(Debug, Clone, Copy)]
struct Plain {
    rounds_inputs: bool,
    weighs_first: bool,
    lanes: usize,
}

impl Plain {
    fn linear(self, linear: &Wide, x: &[f32], dtype: DType) -> Vec<f32> {
        let x = if self.rounds_inputs { round(x, dtype) } else { x.to_vec() };
        let output = |(row, weights): (usize, &[f32])| {
            let mut sums = [0.0_f32; 16];
            for (k, (w, x)) in weights.iter().zip(&x).enumerate() {
                sums[k % self.lanes] += w * x;
            }
            sums.iter().sum::<f32>() + linear.bias.as_ref().map_or(0.0, |bias| bias[row])
        };
        linear.weights.chunks_exact(x.len()).enumerate().map(output).collect()
    }

    fn experts(self, case: &Case, layer: &Layer) -> Vec<f32> {
        let (activation, dtype) = (case.spec.activation, case.spec.format.input_dtype());
        let mut out = vec![0.0_f32; case.tokens * case.spec.hidden];
        let experts: Vec<[Option<Wide>; 3]> = layer.experts.iter().map(Wide::expert).collect();
        for (token, out) in out.chunks_exact_mut(case.spec.hidden).enumerate() {
            let x = layer.x.row(token);
            for (id, weight) in layer.routing.pairs(token) {
                let Some([gate, Some(up), Some(down)]) = experts.get(id as usize) else { continue };
                let up = self.linear(up, x, dtype);
                let mut inner: Vec<f32> = match gate {
                    Some(gate) => {
                        let gate = self.linear(gate, x, dtype);
                        let pairs = gate.iter().zip(&up);
                        pairs.map(|(&gate, &up)| activate_gated(activation, gate, up)).collect()
                    }
                    None => up.iter().map(|&up| activate(activation, up)).collect(),
                };
                let mut factor = weight;
                if self.weighs_first && down.bias.is_none() {
                    inner.iter_mut().for_each(|value| *value *= weight);
                    factor = 1.0;
                }
                let down = self.linear(down, &inner, dtype);
                out.iter_mut().zip(down).for_each(|(out, value)| *out += factor * value);
            }
        }
        out
    }
}

/// A projection in f32.
struct Wide {
    weights: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Wide {
    fn new(linear: &Linear<Matrix, Vec<f32>>) -> Self {
        Self { weights: linear.weight.to_f32(), bias: linear.bias.clone() }
    }

    /// Gate, up and down.
    fn expert(expert: &Expert<Matrix, Vec<f32>>) -> [Option<Self>; 3] {
        let gate = expert.gate_proj.as_ref().map(Self::new);
        [gate, Some(Self::new(&expert.up_proj)), Some(Self::new(&expert.down_proj))]
    }
}

fn round(values: &[f32], dtype: DType) -> Vec<f32> {
    Matrix::from_f32(1, values.len(), values, dtype).unwrap().to_f32()
}

/// The formulas as PyTorch evaluates them in f32.
fn activate(activation: Activation, z: f32) -> f32 {
    match activation {
        Activation::Silu => z / (1.0 + (-z).exp()),
        Activation::Gelu => 0.5 * z * (1.0 + libm::erff(z * std::f32::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            0.5 * z * (1.0 + (0.797_884_6 * (z + 0.044_715 * z * z * z)).tanh())
        }
        Activation::ClampedSwiglu { alpha, limit } => {
            let z = z.min(limit);
            z / (1.0 + (-alpha * z).exp())
        }
        Activation::ClampedSilu { limit } => activate(Activation::Silu, z.min(limit)),
        Activation::Relu2 => z.max(0.0) * z.max(0.0),
        _ => panic!("no formula of {}", activation.name()),
    }
}

fn activate_gated(activation: Activation, gate: f32, up: f32) -> f32 {
    match activation {
        Activation::ClampedSwiglu { limit, .. } => {
            (up.clamp(-limit, limit) + 1.0) * activate(activation, gate)
        }
        Activation::ClampedSilu { limit } => activate(activation, gate) * up.clamp(-limit, limit),
        _ => activate(activation, gate) * up,
    }
}

#[test]
fn plain_implementations_pass_every_case() {
    let plain = [
        Plain { rounds_inputs: false, weighs_first: true, lanes: 1 },
        Plain { rounds_inputs: true, weighs_first: false, lanes: 1 },
        Plain { rounds_inputs: true, weighs_first: true, lanes: 16 },
    ];
    for case in cases().iter().filter(|case| case.has_reference()) {
        let layer = Layer::new(case);
        let judge = judge(case, &layer);
        for plain in plain {
            let verdict = judge(&plain.experts(case, &layer));
            assert!(verdict.is_ok(), "{case}, {plain:?}: {verdict:?}");
        }
    }
}

#[test]
fn f32_results_at_width_64_have_to_be_within_a_thousandth() {
    let mut seen = 0;
    for case in cases().iter().filter(|case| case.spec.hidden == 64) {
        // Hidden states that are inexact in a 16-bit dtype may be rounded too.
        if case.values == Values::Unrounded && case.spec.format != WeightFormat::F32 {
            continue;
        }
        let Layer { experts, x, routing } = Layer::new(case);
        let activation = case.spec.activation;
        let expected = reference::experts(&experts, activation, &x, &routing);
        let limit = match case.spec.format.input_dtype() {
            DType::F32 => 1e-3,
            // What leaves the activation may be rounded: eps / 2 of a sum of magnitudes.
            DType::F16 => 1e-2,
            DType::Bf16 => 5e-2,
        };
        let allowance =
            Tolerance::new(case.spec.format).experts(&experts, activation, &x, &routing);
        for (expected, allowance) in expected.chunks(64).zip(allowance.chunks(64)) {
            let norm = (expected.iter().map(|v| v * v).sum::<f64>() / 64.0).sqrt();
            let largest = allowance.iter().copied().fold(0.0, f64::max);
            assert!(largest < limit * norm, "{case}: {largest:e} against {norm:e}");
            seen += 1;
        }
    }
    assert!(seen > 100);
}

#[test]
fn no_case_leaves_the_range_of_its_type() {
    let in_f16 = |case: &&Case| case.spec.format.input_dtype() == DType::F16;
    for case in cases().iter().filter(in_f16).filter(|case| case.has_reference()) {
        let layer = Layer::new(case);
        let fits = |value: f64| value.abs() < 65504.0;
        for token in 0..case.tokens {
            let x: Vec<f64> = layer.x.row(token).iter().map(|&x| f64::from(x)).collect();
            assert!(x.iter().copied().all(fits), "{case}");
            for (id, _) in layer.routing.pairs(token) {
                let Some(expert) = layer.experts.get(id as usize) else { continue };
                let gate = expert.gate_proj.as_ref().map(|gate| reference::linear(gate, &x));
                for (at, up) in reference::linear(&expert.up_proj, &x).into_iter().enumerate() {
                    let inner = match &gate {
                        Some(gate) => reference::activate_gated(case.spec.activation, gate[at], up),
                        None => reference::activate(case.spec.activation, up),
                    };
                    assert!(fits(inner), "{case}");
                }
            }
        }
    }
}

#[test]
fn a_probe_catches_one_percent_on_any_weight() {
    for probe in cases().iter().filter(|case| case.name == "probe") {
        // The same probe, smaller: every weight in turn.
        let mut case = probe.clone();
        (case.spec.hidden, case.spec.intermediate, case.spec.experts) = (7, 5, 2);
        case.tokens = 14;
        let layer = Layer::new(&case);
        let judge = judge(&case, &layer);
        let projections: &[&str] = match (case.values, case.spec.gated) {
            (Values::InputProbe, true) => &["gate", "up"],
            (Values::InputProbe, false) => &["up"],
            _ => &["down"],
        };
        for (expert, projection, at) in (0..2)
            .flat_map(|expert| projections.iter().map(move |projection| (expert, projection)))
            .flat_map(|(expert, projection)| (0..35).map(move |at| (expert, projection, at)))
        {
            let mut changed = layer.experts.clone();
            change(&mut changed[expert], projection, at);
            let got = result(&changed, case.spec.activation, &layer.x, &layer.routing);
            assert!(judge(&got).is_err(), "{case}: expert {expert} {projection}[{at}]");
        }
    }
}

/// Makes one weight at least 1 % larger.
fn change(expert: &mut Expert<Matrix, Vec<f32>>, projection: &str, at: usize) {
    let linear = match projection {
        "gate" => expert.gate_proj.as_mut().unwrap(),
        "up" => &mut expert.up_proj,
        _ => &mut expert.down_proj,
    };
    let (rows, cols) = (linear.weight.rows(), linear.weight.cols());
    let dtype = linear.weight.elements().dtype();
    let mut values = linear.weight.to_f32();
    let old = values[at];
    values[at] = old * (1.01 + dtype.epsilon() as f32 / 2.0);
    linear.weight = Matrix::from_f32(rows, cols, &values, dtype).unwrap();
    assert!(linear.weight.to_f32()[at] >= old * 1.0099);
}

/// The cases on which a wrong route or a wrong projection has to show: several experts for each
/// token, and enough outputs that one of them is far off.
fn telling_cases() -> Vec<Case> {
    let telling = |case: &Case| {
        let named = matches!(case.name, "kind" | "big" | "large values" | "shape");
        named && case.top_k > 1 && case.tokens > 1 && case.spec.hidden > 16
    };
    cases().into_iter().filter(telling).collect()
}

#[test]
fn a_wrong_expert_is_caught() {
    for case in telling_cases() {
        let layer = Layer::new(&case);
        let mut ids = layer.routing.top_k_index().to_vec();
        ids[0] = (ids[0] + 1) % case.spec.experts as u32;
        check_caught(&case, &layer, &layer.experts, &ids, layer.routing.top_k_weights());
    }
}

#[test]
fn a_dropped_pair_is_caught() {
    for case in telling_cases() {
        let layer = Layer::new(&case);
        let mut ids = layer.routing.top_k_index().to_vec();
        ids[case.top_k] = u32::MAX;
        check_caught(&case, &layer, &layer.experts, &ids, layer.routing.top_k_weights());
    }
}

#[test]
fn gate_and_up_in_each_others_place_are_caught() {
    for case in telling_cases().iter().filter(|case| case.spec.gated) {
        let layer = Layer::new(case);
        let exchange = |expert: &Expert<Matrix, Vec<f32>>| {
            let mut expert = expert.clone();
            std::mem::swap(&mut expert.up_proj, expert.gate_proj.as_mut().unwrap());
            expert
        };
        let changed = layer.experts.iter().map(exchange).collect();
        let (ids, weights) = (layer.routing.top_k_index(), layer.routing.top_k_weights());
        check_caught(case, &layer, &changed, ids, weights);
    }
}

fn check_caught(case: &Case, layer: &Layer, experts: &Experts, ids: &[u32], weights: &[f32]) {
    let routing = Routing::new(case.top_k, ids.to_vec(), weights.to_vec()).unwrap();
    let got = result(experts, case.spec.activation, &layer.x, &routing);
    assert!(judge(case, layer)(&got).is_err(), "{case}");
}

#[test]
fn the_same_case_has_the_same_values() {
    for (case, again) in cases().iter().zip(cases()).step_by(17) {
        let (first, second) = (Layer::new(case), Layer::new(&again));
        assert_eq!((&first.x, &first.routing), (&second.x, &second.routing));
        let bits = |layer: &Layer| layer.experts[0].down_proj.weight.to_f32();
        assert_eq!(bits(&first), bits(&second));
    }
}

#[test]
fn the_layouts_of_a_checkpoint_hold_the_same_experts() {
    for case in cases().iter().filter(|case| case.name == "kind" && case.spec.gated) {
        let mut separate = case.clone();
        separate.gate_up = GateUpLayout::Separate;
        let (stored, plain) = (Layer::new(case), Layer::new(&separate));
        for (stored, plain) in stored.experts.iter().zip(&plain.experts) {
            let gate = |expert: &Expert<Matrix, Vec<f32>>| {
                expert.gate_proj.as_ref().unwrap().weight.to_f32()
            };
            assert_eq!(gate(stored), gate(plain));
            assert_eq!(stored.up_proj.weight.to_f32(), plain.up_proj.weight.to_f32());
        }
    }
}
