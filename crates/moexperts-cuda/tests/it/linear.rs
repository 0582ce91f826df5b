//! Dense layers: odd shapes, and unaligned weights.

use crate::common::{bits, devices, load_shifted, read, tensor, values};
use moexperts_conformance::{Bounded, Tolerance};
use moexperts_core::{DType, DeviceLinear, Linear, Matrix, Memory, Operations, Scratch, Tuning};
use moexperts_cuda::{Cuda, CudaTensor};
use moexperts_cuda_emulator::{EmulatorOptions, emulated};

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

fn linear(cuda: &Cuda, x: &CudaTensor, linears: &[&DeviceLinear<Cuda>]) -> Vec<CudaTensor> {
    let mut outs: Vec<CudaTensor> = linears.iter().map(|_| CudaTensor::default()).collect();
    cuda.linear(x, linears, &mut Scratch::default(), &mut outs).unwrap();
    outs
}

/// Checks that results are those of a layer, within the tolerance.
fn check(what: &str, got: &[f32], x: &[f32], layer: &Linear<Matrix, Vec<f32>>) {
    let (outs, depth) = (layer.weight.rows(), layer.weight.cols());
    let tolerance = Tolerance::new(layer.weight.format());
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
fn layers_of_every_shape_agree_with_the_reference() {
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
                let shifted =
                    DeviceLinear::<Cuda> { weight: load_shifted(&cuda, &plain.weight), bias: None };
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
fn layers_of_one_input_may_differ_in_size_type_and_bias() {
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
fn kernels_are_chosen_for_the_shape() {
    let options = EmulatorOptions::default();
    let hopper = emulated(options);
    let cuda = emulated(EmulatorOptions { compute_capability: (8, 0), ..options });
    let name = |cuda: &Cuda, dtype, outs, rows| {
        cuda.kernel_name(&load(cuda, &layer(outs, 8, dtype, false)).weight, rows)
    };
    for rows in [1, 2, 8] {
        assert_eq!(name(&cuda, DType::Bf16, 2048, rows), "sm_80 gemv");
    }
    // Small tiles, where large ones would leave multiprocessors without a block.
    assert_eq!(name(&cuda, DType::Bf16, 2048, 16), "sm_80 mma 32x16");
    assert_eq!(name(&cuda, DType::F16, 30000, 16), "sm_80 mma 128x16");
    assert_eq!(name(&cuda, DType::F16, 30000, 60), "sm_80 mma 128x64");
    assert_eq!(name(&cuda, DType::Bf16, 2048, 4096), "sm_80 mma 128x128");
    assert_eq!(name(&hopper, DType::Bf16, 2048, 16), "sm_90 mma 32x16");
    assert_eq!(name(&hopper, DType::Bf16, 2048, 4096), "sm_90 wgmma 256x128");
    assert_eq!(name(&hopper, DType::F32, 2048, 16), "sm_90 simt 32x16");
    assert_eq!(name(&hopper, DType::F32, 2048, 4096), "sm_90 simt 128x64");
    let turing = emulated(EmulatorOptions { compute_capability: (7, 5), ..options });
    assert_eq!(name(&turing, DType::Bf16, 2048, 4096), "sm_75 simt 128x64");
}
