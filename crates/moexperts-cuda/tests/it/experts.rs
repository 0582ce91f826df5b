//! Experts beyond the conformance suite: every tile, unaligned weights, no pairs, no waiting.

use std::collections::BTreeSet;

use crate::common::{load_shifted, read, tensor};
use moexperts_conformance::{Case, Layer, Mismatch, Tolerance, cases};
use moexperts_core::{
    Execution, Expert, Experts, ExpertsBackend, ExpertsCall, Linear, Matrix, Memory, Routing,
    Scratch, Tuning, WeightFormat, reference,
};
use moexperts_cuda::{Cuda, CudaTensor, GroupedMm};
use moexperts_cuda_emulator::{
    Copies, Emulator, EmulatorOptions, Order, compiled_kernels, test_gpu,
};

/// A GPU with tensor cores, and one without.
fn emulators() -> Vec<Emulator> {
    let small = EmulatorOptions { multiprocessors: 4, ..EmulatorOptions::default() };
    let ampere = EmulatorOptions {
        compute_capability: (8, 0),
        order: Order::Shuffled(3),
        copies: Copies::Late,
        ..small
    };
    let turing = EmulatorOptions { compute_capability: (7, 5), order: Order::Descending, ..small };
    vec![Emulator::new(ampere), Emulator::new(turing)]
}

/// The GPU that tests run on, or the emulated ones.
fn devices(emulators: &[Emulator]) -> Vec<Cuda> {
    test_gpu().map_or_else(|| emulators.iter().map(Emulator::cuda).collect(), |gpu| vec![gpu])
}

/// The results of a backend for a case.
fn run(
    backend: &dyn ExpertsBackend<Cuda>,
    device: &Cuda,
    experts: &Experts<Cuda>,
    layer: &Layer,
) -> Vec<f32> {
    let (tokens, hidden) = (layer.x.rows(), layer.x.cols());
    let (mut x, mut out) = (CudaTensor::default(), CudaTensor::default());
    device.load_tensor(tokens, hidden, layer.x.data(), &mut x).unwrap();
    device.load_tensor(tokens, hidden, &vec![f32::NAN; tokens * hidden], &mut out).unwrap();
    let routing = &device.load_routing(layer.routing.clone()).unwrap();
    let scratch = &mut Scratch::default();
    backend.forward(ExpertsCall { device, experts, x: &x, routing, scratch }, &mut out).unwrap();
    read(device, &out)
}

/// Whether results are those of a case, within the tolerance.
fn is_right(case: &Case, layer: &Layer, got: &[f32]) -> Result<(), Mismatch> {
    let Layer { experts, x, routing } = layer;
    let activation = case.spec.activation;
    let expected = reference::experts(experts, activation, x, routing);
    let allowed = Tolerance::new(case.spec.format).experts(experts, activation, x, routing);
    Mismatch::find(got, &expected, &allowed, case.spec.hidden)
}

/// Cases with groups of several tiles and of few rows, gated and not, with and without bias.
fn chosen(format: WeightFormat) -> Vec<Case> {
    let is_chosen = |case: &Case| {
        let kind = case.name == "kind" && case.spec.bias && !case.spec.gated;
        let shape = case.name == "shape" && [31, 49, 130].contains(&case.tokens);
        case.spec.format == format && (case.name == "big" || kind || shape)
    };
    cases().into_iter().filter(is_chosen).collect()
}

/// The same GPU with tiles of a size, set by the knobs.
fn with_tile(cuda: &Cuda, rows: usize, positions: usize) -> Cuda {
    let knob = |name| cuda.knobs().iter().position(|knob| knob.name == name).unwrap();
    cuda.with_knob(knob("tile_rows"), rows).with_knob(knob("tile_positions"), positions)
}

#[test]
fn every_tile_computes_every_case() {
    let emulators = emulators();
    for cuda in devices(&emulators) {
        for case in WeightFormat::ALL.iter().copied().flat_map(chosen) {
            let layer = Layer::new(&case);
            let experts = Experts::load(&cuda, case.spec, layer.experts.clone()).unwrap();
            for (rows, positions) in
                [32, 64, 128].into_iter().flat_map(|rows| [16, 32, 64, 128].map(|n| (rows, n)))
            {
                let cuda = with_tile(&cuda, rows, positions);
                is_right(&case, &layer, &run(&GroupedMm, &cuda, &experts, &layer))
                    .unwrap_or_else(|m| panic!("{rows}x{positions}, {case}: {m:?}"));
            }
        }
    }
    if test_gpu().is_some() {
        return;
    }
    let launched: BTreeSet<_> = emulators.iter().flat_map(Emulator::kernels).collect();
    for (module, kernel) in compiled_kernels() {
        if ["tiles.cu", "simt.cu"].contains(&module.as_str()) {
            assert!(launched.contains(kernel.as_str()), "`{kernel}` was not launched");
        }
    }
}

#[test]
fn weights_may_begin_at_any_element() {
    for cuda in devices(&emulators()) {
        let cases = WeightFormat::ALL.iter().copied().flat_map(chosen);
        for case in cases.filter(|case| case.name == "shape") {
            let layer = Layer::new(&case);
            let shifted = |linear: &Linear<Matrix, Vec<f32>>| Linear {
                weight: load_shifted(&cuda, &linear.weight),
                bias: linear.bias.clone().map(|bias| cuda.load_vector(bias).unwrap()),
            };
            let experts = layer.experts.iter().map(|expert| Expert {
                gate_proj: expert.gate_proj.as_ref().map(shifted),
                up_proj: shifted(&expert.up_proj),
                down_proj: shifted(&expert.down_proj),
            });
            let experts = Experts::resident(case.spec, experts.collect()).unwrap();
            for backend in Cuda::built_in_experts() {
                is_right(&case, &layer, &run(&*backend, &cuda, &experts, &layer))
                    .unwrap_or_else(|m| panic!("{}, {case}: {m:?}", backend.name()));
            }
        }
    }
}

#[test]
fn tokens_without_experts_are_zero() {
    let cuda = devices(&emulators()).swap_remove(0);
    let case = chosen(WeightFormat::BF16).swap_remove(0);
    let layer = Layer { routing: Routing::new(0, vec![], vec![]).unwrap(), ..Layer::new(&case) };
    let experts = Experts::load(&cuda, case.spec, layer.experts.clone()).unwrap();
    for backend in Cuda::built_in_experts() {
        let out = run(&*backend, &cuda, &experts, &layer);
        assert!(out.iter().all(|&value| value == 0.0), "{}", backend.name());
    }
}

#[test]
fn with_batched_mm_a_token_among_few_has_the_bits_it_has_alone() {
    let cuda = devices(&emulators()).swap_remove(0);
    let backends = Cuda::built_in_experts();
    let batched = backends.iter().find(|backend| backend.name() == "batched_mm").unwrap();
    for &format in WeightFormat::ALL {
        let mut case = chosen(format).swap_remove(0);
        // Several tokens of each expert; few enough pairs to be searched, and more.
        (case.top_k, case.spec.experts, case.spec.hidden) = (5, 7, 300);
        for tokens in [9, 20] {
            case.tokens = tokens;
            let layer = Layer::new(&case);
            let experts = Experts::load(&cuda, case.spec, layer.experts.clone()).unwrap();
            let together = run(&**batched, &cuda, &experts, &layer);
            for (token, got) in together.chunks_exact(case.spec.hidden).enumerate() {
                let x = layer.x.row(token).to_vec();
                let (ids, weights) = layer.routing.pairs(token).unzip();
                let alone = Layer {
                    experts: Vec::new(),
                    x: moexperts_core::Tensor::from_vec(1, case.spec.hidden, x).unwrap(),
                    routing: Routing::new(case.top_k, ids, weights).unwrap(),
                };
                assert_eq!(got, run(&**batched, &cuda, &experts, &alone), "{format}, {token}");
            }
        }
    }
}

#[test]
fn batched_and_grouped_products_never_wait_and_allocate_once() {
    let gpu = Emulator::new(EmulatorOptions::default());
    let cuda = gpu.cuda();
    // Pairs that are searched, ordered by one block, and by several.
    for [tokens, experts] in [[1, 8], [7, 8], [65, 8], [700, 12]] {
        let mut case = cases().into_iter().find(|case| case.name == "big").unwrap();
        (case.tokens, case.top_k, case.spec.experts) = (tokens, 8, experts);
        (case.spec.hidden, case.spec.intermediate) = (24, 8);
        let layer = Layer::new(&case);
        let experts = &Experts::load(&cuda, case.spec, layer.experts.clone()).unwrap();
        let x = &tensor(&cuda, tokens, case.spec.hidden, 1);
        let routing = &cuda.load_routing(layer.routing.clone()).unwrap();
        let mut out = tensor(&cuda, tokens, case.spec.hidden, 0);
        for backend in Cuda::built_in_experts() {
            let mut scratch = Scratch::default();
            let mut forward = || {
                let (device, scratch) = (&cuda, &mut scratch);
                let call = ExpertsCall { device, experts, x, routing, scratch };
                backend.forward(call, &mut out).unwrap();
            };
            forward();
            let used = gpu.used_bytes();
            gpu.reset();
            forward();
            assert_eq!(gpu.used_bytes(), used, "{}", backend.name());
            assert_eq!(gpu.synchronisations() > 0, backend.reads_routing_on_host());
            if backend.name() == "batched_mm" {
                assert_eq!(gpu.launches(), 2);
            }
        }
    }
}
