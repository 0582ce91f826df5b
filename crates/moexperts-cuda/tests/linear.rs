//! Dense layers and grouped products: every kernel, odd shapes, weights that begin anywhere.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail with them")]

mod common;

use std::collections::BTreeSet;

use common::{bits, devices, read, tensor, values};
use moexperts_conformance::{Bounded, Case, Layer, Mismatch, Tolerance, cases};
use moexperts_core::{
    DType, Device, DeviceLinear, Expert, Experts, ExpertsBackend, ExpertsCall, Linear, Matrix, Scratch,
    Weight, made, reference,
};
use moexperts_cuda::{Cuda, CudaMatrix, CudaTensor, GroupedMm};
use moexperts_cuda_emulator::{
    Copies, Emulator, EmulatorOptions, Order, compiled_kernels, test_gpu,
};

/// GPUs whose products are by tensor cores, and by none.
fn emulators() -> [Emulator; 2] {
    let small = EmulatorOptions { multiprocessors: 4, ..EmulatorOptions::default() };
    [
        EmulatorOptions {
            compute_capability: (8, 0),
            order: Order::Shuffled(3),
            copies: Copies::Late,
            ..small
        },
        EmulatorOptions { compute_capability: (7, 5), order: Order::Descending, ..small },
    ]
    .map(Emulator::new)
}

/// A layer on the host.
fn layer(outs: usize, depth: usize, dtype: DType, bias: bool) -> Linear<Matrix, Vec<f32>> {
    let seed = (outs * 1000 + depth) as u64;
    let weight = Matrix::from_f32(outs, depth, &values(outs * depth, seed), dtype).unwrap();
    Linear { weight, bias: bias.then(|| values(outs, seed + 1)) }
}

fn load(cuda: &Cuda, linear: &Linear<Matrix, Vec<f32>>) -> DeviceLinear<Cuda> {
    Linear {
        weight: cuda.load_matrix(linear.weight.clone()).unwrap(),
        bias: linear.bias.clone().map(|bias| cuda.load_vector(bias).unwrap()),
    }
}

/// The same weight as part of a wider one, so that its rows begin at no multiple of 16 bytes.
fn load_shifted(cuda: &Cuda, weight: &Matrix) -> CudaMatrix {
    let (rows, cols) = (weight.rows(), weight.cols());
    let mut wide = vec![f32::NAN; rows * (cols + 2)];
    for (row, to) in wide.chunks_exact_mut(cols + 2).enumerate() {
        weight.row(row).write_f32(&mut to[1..=cols]);
    }
    let wide = Matrix::from_f32(rows, cols + 2, &wide, weight.dtype()).unwrap();
    cuda.load_matrix(wide).unwrap().block(0..rows, 1..cols + 1)
}

fn linear(cuda: &Cuda, x: &CudaTensor, linears: &[&DeviceLinear<Cuda>]) -> Vec<CudaTensor> {
    let mut outs: Vec<CudaTensor> = linears.iter().map(|_| CudaTensor::default()).collect();
    cuda.linear(x, linears, &mut Scratch::default(), &mut outs).unwrap();
    outs
}

/// Whether a result is that of a layer, within the allowance.
fn check(what: &str, got: &[f32], x: &[f32], layer: &Linear<Matrix, Vec<f32>>) {
    let (outs, depth) = (layer.weight.rows(), layer.weight.cols());
    let tolerance = Tolerance::new(layer.weight.dtype());
    for (row, got) in got.chunks_exact(outs).enumerate() {
        let x: Vec<Bounded> = x[row * depth..(row + 1) * depth]
            .iter()
            .map(|&value| Bounded::exact(f64::from(value)))
            .collect();
        for (out, (&got, expected)) in got.iter().zip(tolerance.linear(layer, &x)).enumerate() {
            let Bounded { value, error } = expected;
            let near = (f64::from(got) - value).abs() <= error;
            assert!(near, "{what}, [{row}, {out}]: {got}, expected {value} within {error}");
        }
    }
}

#[test]
fn layers_of_every_shape_are_what_they_should_be() {
    for (name, cuda) in devices() {
        for dtype in DType::ALL {
            for [rows, depth, outs] in [
                [1, 1, 1],
                [1, 300, 7],
                [2, 256, 33],
                [3, 67, 5],
                [4, 1100, 9],
                [5, 8, 3],
                [8, 261, 18],
                [9, 64, 40],
                [17, 67, 33],
                [33, 130, 129],
                [70, 31, 65],
                [129, 100, 140],
            ] {
                let what = format!("{name}: {dtype} [{rows}, {depth}] to {outs}");
                let x = tensor(&cuda, rows, depth, 5);
                let host = read(&cuda, &x);
                let of = |bias| layer(outs, depth, dtype, bias);
                let [plain, biased] = [of(false), of(true)];
                let shifted = DeviceLinear::<Cuda> {
                    weight: load_shifted(&cuda, &plain.weight),
                    bias: None,
                };
                let [on_plain, on_biased] = [&plain, &biased].map(|layer| load(&cuda, layer));
                let outs = linear(&cuda, &x, &[&on_plain, &on_biased, &shifted]);
                check(&what, &read(&cuda, &outs[0]), &host, &plain);
                check(&format!("{what} with bias"), &read(&cuda, &outs[1]), &host, &biased);
                check(&format!("{what} shifted"), &read(&cuda, &outs[2]), &host, &plain);
            }
        }
    }
}

#[test]
fn layers_of_one_input_differ_in_all_they_can() {
    let (_, cuda) = devices().swap_remove(0);
    let dtypes = [DType::Bf16, DType::Bf16, DType::F32, DType::F16, DType::F16, DType::Bf16];
    for rows in [0, 1, 3, 20] {
        let x = tensor(&cuda, rows, 72, 9);
        let layers: Vec<_> = (0..14)
            .map(|index| layer(1 + 11 * index, 72, dtypes[index % dtypes.len()], index % 3 == 0))
            .collect();
        let loaded: Vec<_> = layers.iter().map(|layer| load(&cuda, layer)).collect();
        let outs = linear(&cuda, &x, &loaded.iter().collect::<Vec<_>>());
        for (index, (out, layer)) in outs.iter().zip(&layers).enumerate() {
            assert_eq!([out.rows(), out.cols()], [rows, layer.weight.rows()]);
            check(&format!("layer {index}"), &read(&cuda, out), &read(&cuda, &x), layer);
        }
    }
}

#[test]
fn a_row_among_few_has_the_bits_it_has_alone() {
    let (name, cuda) = devices().swap_remove(0);
    for dtype in DType::ALL {
        let layer = load(&cuda, &layer(37, 333, dtype, true));
        let x = tensor(&cuda, 8, 333, 2);
        let host = read(&cuda, &x);
        let all = read(&cuda, &linear(&cuda, &x, &[&layer])[0]);
        for rows in 1..8 {
            let mut some = CudaTensor::default();
            cuda.load_tensor(rows, 333, &host[..rows * 333], &mut some).unwrap();
            let got = read(&cuda, &linear(&cuda, &some, &[&layer])[0]);
            assert_eq!(bits(&got), bits(&all[..rows * 37]), "{name}: {dtype}, {rows} rows");
        }
    }
}

#[test]
fn kernels_have_names() {
    let [mma, simt] = emulators();
    for (gpu, bf16, f32) in [(mma, "sm_80 mma 32x64", "simt"), (simt, "sm_75 simt 64x16", "simt")] {
        let cuda = gpu.cuda();
        let matrix = |dtype| load(&cuda, &layer(300, 16, dtype, false)).weight;
        assert!(cuda.kernel_name(&matrix(DType::Bf16), 8).ends_with(" gemv"));
        assert_eq!(cuda.kernel_name(&matrix(DType::Bf16), 60), bf16);
        assert!(cuda.kernel_name(&matrix(DType::F32), 60).contains(f32));
    }
}

/// The same GPU with its tiles of a size, as the knobs have it.
fn with_tile(cuda: &Cuda, rows: usize, positions: usize) -> Cuda {
    let knob = |name| cuda.knobs().iter().position(|knob| knob.name == name).unwrap();
    cuda.with_knob(knob("tile_rows"), rows).with_knob(knob("tile_positions"), positions)
}

fn run(cuda: &Cuda, experts: &Experts<Cuda>, case: &Case, layer: &Layer) -> Vec<f32> {
    let hidden = case.spec.hidden;
    let x = made(|x| cuda.load_tensor(case.tokens, hidden, layer.x.data(), x)).unwrap();
    let routing = cuda.load_routing(layer.routing.clone()).unwrap();
    let mut out = CudaTensor::default();
    cuda.load_tensor(case.tokens, hidden, &vec![f32::NAN; case.tokens * hidden], &mut out).unwrap();
    let scratch = &mut Scratch::default();
    let call = ExpertsCall { device: cuda, experts, x: &x, routing: &routing, scratch };
    GroupedMm.forward(call, &mut out).unwrap();
    read(cuda, &out)
}

/// Whether a result is that of a case, within the allowance.
fn is_right(case: &Case, layer: &Layer, got: &[f32]) -> Result<(), Mismatch> {
    let Layer { experts, x, routing } = layer;
    let activation = case.spec.activation;
    let expected = reference::experts(experts, activation, x, routing);
    let allowed = Tolerance::new(case.spec.dtype).experts(experts, activation, x, routing);
    Mismatch::find(got, &expected, &allowed, case.spec.hidden)
}

/// Cases with groups of several tiles and of few rows, gated and not, with and without bias.
fn tile_cases(dtype: DType) -> Vec<Case> {
    let of_dtype: Vec<Case> = cases().into_iter().filter(|case| case.spec.dtype == dtype).collect();
    let chosen = of_dtype.iter().filter(|case| {
        ["big", "routing of many tokens"].contains(&case.name)
            || case.name == "kind" && case.spec.bias && !case.spec.gated
            || case.name == "shape" && case.tokens >= 15
    });
    chosen.cloned().collect()
}

#[test]
fn every_tile_computes_every_case_and_every_product_has_a_kernel() {
    if test_gpu().is_some() {
        return;
    }
    let mut launched = BTreeSet::new();
    for gpu in emulators() {
        for dtype in DType::ALL {
            for case in tile_cases(dtype) {
                let layer = Layer::new(&case);
                let cuda = gpu.cuda();
                let experts = Experts::load(&cuda, case.spec, layer.experts.clone()).unwrap();
                for rows in [32, 64, 128] {
                    for positions in [16, 32, 64, 128] {
                        let cuda = with_tile(&cuda, rows, positions);
                        let got = run(&cuda, &experts, &case, &layer);
                        is_right(&case, &layer, &got).unwrap_or_else(|mismatch| {
                            panic!("{rows}x{positions}, {case}: {mismatch:?}")
                        });
                    }
                }
            }
        }
        launched.extend(gpu.kernels());
    }
    for (module, kernel) in compiled_kernels() {
        if ["tiles.cu", "simt.cu"].contains(&module.as_str()) {
            assert!(launched.contains(kernel.as_str()), "`{kernel}` was not launched");
        }
    }
}

#[test]
fn weights_begin_anywhere() {
    for gpu in emulators() {
        let cuda = gpu.cuda();
        for dtype in DType::ALL {
            for case in tile_cases(dtype).into_iter().filter(|case| case.name == "shape") {
                let layer = Layer::new(&case);
                let shifted = |linear: &Linear<Matrix, Vec<f32>>| Linear {
                    weight: load_shifted(&cuda, &linear.weight),
                    bias: linear.bias.clone().map(|bias| cuda.load_vector(bias).unwrap()),
                };
                let mut experts = layer.experts.iter().map(|expert| Expert {
                    gate_proj: expert.gate_proj.as_ref().map(shifted),
                    up_proj: shifted(&expert.up_proj),
                    down_proj: shifted(&expert.down_proj),
                });
                let first = Experts::single(case.spec, experts.next().unwrap());
                let experts = first.joined(experts.collect());
                for backend in Cuda::built_in_experts() {
                    let hidden = case.spec.hidden;
                    let x = made(|x| cuda.load_tensor(case.tokens, hidden, layer.x.data(), x));
                    let routing = cuda.load_routing(layer.routing.clone()).unwrap();
                    let mut out = tensor(&cuda, case.tokens, hidden, 0);
                    let (x, scratch) = (&x.unwrap(), &mut Scratch::default());
                    let (device, experts, routing) = (&cuda, &experts, &routing);
                    let call = ExpertsCall { device, experts, x, routing, scratch };
                    backend.forward(call, &mut out).unwrap();
                    is_right(&case, &layer, &read(&cuda, &out))
                        .unwrap_or_else(|mismatch| panic!("{}, {case}: {mismatch:?}", backend.name()));
                }
            }
        }
    }
}

#[test]
fn batched_and_grouped_products_never_wait_and_allocate_once() {
    if test_gpu().is_some() {
        return;
    }
    let gpu = Emulator::new(EmulatorOptions::default());
    let cuda = gpu.cuda();
    // Pairs that are looked through, ordered by one block, and by several.
    for [tokens, experts] in [[1, 8], [7, 8], [65, 8], [700, 12]] {
        let mut case = cases().into_iter().find(|case| case.name == "big").unwrap();
        (case.tokens, case.top_k, case.spec.experts) = (tokens, 8, experts);
        (case.spec.hidden, case.spec.intermediate) = (24, 8);
        let layer = Layer::new(&case);
        let experts = Experts::load(&cuda, case.spec, layer.experts.clone()).unwrap();
        let x = made(|x| cuda.load_tensor(tokens, case.spec.hidden, layer.x.data(), x)).unwrap();
        let routing = cuda.load_routing(layer.routing.clone()).unwrap();
        let mut out = tensor(&cuda, tokens, case.spec.hidden, 0);
        for backend in Cuda::built_in_experts() {
            let mut scratch = Scratch::default();
            let mut forward = |out: &mut CudaTensor| {
                let (device, scratch) = (&cuda, &mut scratch);
                let call =
                    ExpertsCall { device, experts: &experts, x: &x, routing: &routing, scratch };
                backend.forward(call, out).unwrap();
            };
            forward(&mut out);
            let used = gpu.used_bytes();
            gpu.reset();
            forward(&mut out);
            assert_eq!(gpu.used_bytes(), used, "{}", backend.name());
            assert_eq!(gpu.synchronisations() > 0, backend.reads_routing_on_host());
            if backend.name() == "batched_mm" {
                assert_eq!(gpu.launches(), 2);
            }
        }
    }
}
