//! The backends that do not read the routing are captured as graphs, with all of their kernels.

use crate::common::{bits, devices, tensor, values};
use moexperts_core::{
    DType, Execution, Expert, Experts, ExpertsBackend, ExpertsCall, ExpertsSpec, Linear, Matrix,
    Memory, Operations, Result, RouteOperands, RouterSpec, Scratch, made,
};
use moexperts_cuda::{BatchedMm, Cuda, GroupedMm, Recording};

const HIDDEN: usize = 64;
const EXPERTS: usize = 6;
const RUNS: usize = 5;

fn experts(cuda: &Cuda, dtype: DType) -> Experts<Cuda> {
    let spec = ExpertsSpec::gated_silu(HIDDEN, 32, EXPERTS, dtype.into());
    let linear = |rows, cols, seed| Linear {
        weight: Matrix::from_f32(rows, cols, &values(rows * cols, seed), dtype).unwrap(),
        bias: None,
    };
    let expert = |index: u64| Expert {
        gate_proj: Some(linear(32, HIDDEN, 3 * index)),
        up_proj: linear(32, HIDDEN, 3 * index + 1),
        down_proj: linear(HIDDEN, 32, 3 * index + 2),
    };
    Experts::load(cuda, spec, (0..EXPERTS as u64).map(expert).collect()).unwrap()
}

/// The results of a backend in several runs with other values and another routing each, with a recording
/// or without.
fn outputs(
    cuda: &Cuda,
    backend: &dyn ExpertsBackend<Cuda>,
    experts: &Experts<Cuda>,
    tokens: usize,
    mut recording: Option<&mut Recording>,
) -> Vec<Vec<u32>> {
    let mut x = tensor(cuda, tokens, HIDDEN, 0);
    let mut logits = tensor(cuda, tokens, EXPERTS, 0);
    let mut out = tensor(cuda, tokens, HIDDEN, 0);
    let mut routing = cuda.new_routing(2 * tokens).unwrap();
    let scratch = &mut Scratch::default();
    let router = RouterSpec::softmax(2, true);
    let runs = (0..RUNS as u64).map(|run| {
        let hidden_states = values(tokens * HIDDEN, 2 * run + 100);
        let router_logits = values(tokens * EXPERTS, 2 * run + 101);
        let forward = || -> Result<Vec<f32>> {
            cuda.load_tensor(tokens, HIDDEN, &hidden_states, &mut x)?;
            cuda.load_tensor(tokens, EXPERTS, &router_logits, &mut logits)?;
            cuda.route(&logits, &router, RouteOperands::default(), &mut routing)?;
            let call = ExpertsCall { device: cuda, experts, x: &x, routing: &routing, scratch };
            backend.forward(call, &mut out)?;
            made(|values| cuda.read_tensor(&out, values))
        };
        bits(&cuda.enter_plan(recording.as_deref_mut(), forward).unwrap())
    });
    runs.collect()
}

#[test]
fn a_layer_is_captured_and_gives_the_same_bits() {
    for (what, cuda) in devices() {
        for dtype in DType::ALL {
            let experts = experts(&cuda, dtype);
            // Few pairs, more than are searched, and enough for the tiles of many tokens.
            for tokens in [1, 5, 70, 200] {
                for backend in [&BatchedMm as &dyn ExpertsBackend<Cuda>, &GroupedMm] {
                    let what = format!("{what}: {} {dtype}, {tokens} tokens", backend.name());
                    let plain = outputs(&cuda, backend, &experts, tokens, None);
                    let mut recording = Recording::default();
                    let captured = outputs(&cuda, backend, &experts, tokens, Some(&mut recording));
                    assert_eq!(recording.graph_launches(), RUNS - 2, "{what}");
                    assert_eq!(captured, plain, "{what}");
                    assert!(plain.windows(2).all(|runs| runs[0] != runs[1]), "{what}");
                }
            }
        }
    }
}
