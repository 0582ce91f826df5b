//! One experts layer of kinds that hardly a family has, against transformers' own modules.

use std::sync::Arc;

use moexperts::{
    Activation, Cpu, CpuOptions, ExpertsCall, ExpertsSpec,
    checkpoint::Checkpoint,
    core::{
        Execution, Expert, Experts, Linear, Matrix, Routing, Scratch, Storage, Tensor, WeightFormat,
    },
};

use crate::common::{Golden, assert_close, data};

const HIDDEN: usize = 12;
const INTERMEDIATE: usize = 10;
const EXPERTS: usize = 4;
const TOP_K: usize = 2;

#[derive(Debug)]
struct Bytes(Vec<u8>);

impl Storage for Bytes {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn checkpoint() -> Checkpoint {
    let bytes = Bytes(std::fs::read(data("experts.safetensors")).unwrap());
    Checkpoint::from_storage("experts.safetensors", Arc::new(bytes)).unwrap()
}

/// Runs a layer with every backend and compares with the golden output in f64.
fn check(name: &str, spec: ExpertsSpec, experts: Vec<Expert<Matrix, Vec<f32>>>) {
    let golden = Golden::read(&data("experts.safetensors"));
    let values = |part: &str| golden.values(&format!("{name}.{part}")).to_vec();
    let narrow =
        |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect::<Vec<_>>();
    let x = narrow(values("x"));
    let x = Tensor::from_vec(x.len() / HIDDEN, HIDDEN, x).unwrap();
    let ids = values("top_k_index").into_iter().map(|id| id as u32).collect();
    let routing = Routing::new(TOP_K, ids, narrow(values("top_k_weights"))).unwrap();
    let device = Cpu::new(CpuOptions::default()).unwrap();
    let experts = Experts::load(&device, spec, experts).unwrap();
    for backend in Cpu::built_in_experts() {
        backend.check(&spec, &device).unwrap();
        let mut out = Tensor::zeros(x.rows(), HIDDEN);
        let mut scratch = Scratch::default();
        let call = ExpertsCall {
            device: &device,
            experts: &experts,
            x: &x,
            routing: &routing,
            scratch: &mut scratch,
        };
        backend.forward(call, &mut out).unwrap();
        let what = format!("{name} {}", backend.name());
        assert_close(&what, out.data(), &values("out_f64"), 1e-6);
    }
}

fn spec(activation: Activation) -> ExpertsSpec {
    ExpertsSpec::gated_silu(HIDDEN, INTERMEDIATE, EXPERTS, WeightFormat::F32)
        .with_activation(activation)
}

/// Every `step`-th value of a bias [E, n] of expert `expert`, from `start`.
fn bias(
    values: &[f64],
    expert: usize,
    start: usize,
    step: usize,
    count: usize,
) -> Option<Vec<f32>> {
    let row = &values[expert * values.len() / EXPERTS..(expert + 1) * values.len() / EXPERTS];
    Some(row[start..].iter().step_by(step).take(count).map(|&value| value as f32).collect())
}

#[test]
fn interleaved_transposed_experts_with_bias_and_clamped_swiglu_are_gpt_oss() {
    let checkpoint = checkpoint();
    let golden = Golden::read(&data("experts.safetensors"));
    let gate_up =
        checkpoint.stack("gpt_oss.gate_up_proj", [EXPERTS, HIDDEN, 2 * INTERMEDIATE]).unwrap();
    let down = checkpoint.stack("gpt_oss.down_proj", [EXPERTS, INTERMEDIATE, HIDDEN]).unwrap();
    let gate_up_bias = golden.values("gpt_oss.gate_up_proj_bias");
    let down_bias = golden.values("gpt_oss.down_proj_bias");
    let experts = (0..EXPERTS).map(|e| {
        let rows = gate_up.row_range(e * HIDDEN..(e + 1) * HIDDEN).transposed().unwrap();
        let part = |start| Linear {
            weight: rows.rows_stepped(start..2 * INTERMEDIATE, 2),
            bias: bias(gate_up_bias, e, start, 2, INTERMEDIATE),
        };
        let down_rows = down.row_range(e * INTERMEDIATE..(e + 1) * INTERMEDIATE);
        Expert {
            gate_proj: Some(part(0)),
            up_proj: part(1),
            down_proj: Linear {
                weight: down_rows.transposed().unwrap(),
                bias: bias(down_bias, e, 0, 1, HIDDEN),
            },
        }
    });
    let activation = Activation::ClampedSwiglu { alpha: 1.702, limit: 7.0 };
    check("gpt_oss", spec(activation).with_bias(), experts.collect());
}

#[test]
fn experts_without_a_gate_are_nemotron_h() {
    let checkpoint = checkpoint();
    let up = checkpoint.stack("nemotron_h.up_proj", [EXPERTS, INTERMEDIATE, HIDDEN]).unwrap();
    let down = checkpoint.stack("nemotron_h.down_proj", [EXPERTS, HIDDEN, INTERMEDIATE]).unwrap();
    let experts = (0..EXPERTS).map(|e| Expert {
        gate_proj: None,
        up_proj: Linear {
            weight: up.row_range(e * INTERMEDIATE..(e + 1) * INTERMEDIATE),
            bias: None,
        },
        down_proj: Linear { weight: down.row_range(e * HIDDEN..(e + 1) * HIDDEN), bias: None },
    });
    check("nemotron_h", spec(Activation::Relu2).ungated(), experts.collect());
}

#[test]
fn concatenated_experts_with_bias_and_gelu() {
    let checkpoint = checkpoint();
    let golden = Golden::read(&data("experts.safetensors"));
    let name = |part: &str| format!("gelu_tanh_bias.{part}");
    let shape = [EXPERTS, 2 * INTERMEDIATE, HIDDEN];
    let gate_up = checkpoint.stack(&name("gate_up_proj"), shape).unwrap();
    let down = checkpoint.stack(&name("down_proj"), [EXPERTS, HIDDEN, INTERMEDIATE]).unwrap();
    let gate_up_bias = golden.values(&name("gate_up_proj_bias"));
    let down_bias = golden.values(&name("down_proj_bias"));
    let experts = (0..EXPERTS).map(|e| {
        let part = |half: usize| {
            let start = (2 * e + half) * INTERMEDIATE;
            Linear {
                weight: gate_up.row_range(start..start + INTERMEDIATE),
                bias: bias(gate_up_bias, e, half * INTERMEDIATE, 1, INTERMEDIATE),
            }
        };
        Expert {
            gate_proj: Some(part(0)),
            up_proj: part(1),
            down_proj: Linear {
                weight: down.row_range(e * HIDDEN..(e + 1) * HIDDEN),
                bias: bias(down_bias, e, 0, 1, HIDDEN),
            },
        }
    });
    let spec = spec(Activation::GeluTanh).with_bias();
    check("gelu_tanh_bias", spec, experts.collect());
}
