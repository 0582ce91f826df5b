//! Dense layers, one and several at a time.

use moexperts_conformance::{Bounded, Tolerance};
use moexperts_core::{
    DType, DeviceLinear, Linear, Matrix, Operations, Scratch, Tensor, Tuning, reference,
};
use moexperts_cpu::{Cpu, Isa};

use super::{assert_near, is_count_error, is_shape_error, wide};
use crate::common::{bits, device, devices, devices_by_threads, linear, tensor, values};

#[test]
fn a_linear_layer_is_the_sum_of_products_and_its_bias() {
    for cpu in devices() {
        for dtype in DType::ALL {
            let shapes = [[0, 4, 4], [1, 1, 1], [1, 67, 129], [3, 33, 5], [50, 64, 70], [7, 5, 65]];
            for [tokens, inputs, outputs] in shapes {
                for bias in [None, Some(values(outputs, 3))] {
                    let x = tensor(tokens, inputs, 1);
                    // Every second row of what is stored.
                    let stored = values(2 * outputs * inputs, 2);
                    let stored = Matrix::from_f32(2 * outputs, inputs, &stored, dtype).unwrap();
                    let weight = stored.rows_stepped(1..2 * outputs, 2);
                    check_linear(&cpu, &x, &Linear { weight, bias }, dtype);
                }
            }
        }
    }
}

/// Compares a layer with the reference.
pub(super) fn check_linear(cpu: &Cpu, x: &Tensor, layer: &DeviceLinear<Cpu>, dtype: DType) {
    let out = linear(cpu, x, layer).unwrap();
    assert_eq!([out.rows(), out.cols()], [x.rows(), layer.weight.rows()]);
    for token in 0..x.rows() {
        let exact: Vec<Bounded> = wide(x.row(token)).into_iter().map(Bounded::exact).collect();
        let expected = reference::linear(layer, &wide(x.row(token)));
        let allowed = Tolerance::new(dtype).linear(layer, &exact);
        for (column, &got) in out.row(token).iter().enumerate() {
            assert_near(got, expected[column], allowed[column].error, || {
                format!("{} {dtype} out[{token}, {column}]", cpu.isa())
            });
        }
    }
}

/// Few rows, rows that fill panels, and rows that the threads divide.
#[test]
fn a_linear_layer_without_inputs_gives_its_bias() {
    for cpu in devices_by_threads().flatten() {
        for (tokens, dtype) in [1, 40, 601].into_iter().flat_map(|t| DType::ALL.map(|d| (t, d))) {
            let x = Tensor::zeros(tokens, 0);
            for bias in [None, Some(values(37, 3))] {
                let expected = bias.clone().unwrap_or(vec![0.0; 37]).repeat(tokens);
                let weight = Matrix::from_f32(37, 1, &[1.0; 37], dtype).unwrap().col_range(0..0);
                let out = linear(&cpu, &x, &Linear { weight, bias }).unwrap();
                assert_eq!(out.data(), expected, "{} {tokens}", cpu.fingerprint());
            }
        }
    }
}

/// With one thread the rows are divided, with three the outputs: 601 rows are five blocks of panels
/// and some rows beside them.
#[test]
fn a_linear_layer_of_many_rows_is_the_same_however_it_is_divided() {
    let (tokens, inputs, outputs) = (601, 70, 101);
    let x = tensor(tokens, inputs, 1);
    for devices in devices_by_threads() {
        for dtype in DType::ALL {
            let stored = values(outputs * inputs, 2);
            let weight = Matrix::from_f32(outputs, inputs, &stored, dtype).unwrap();
            let layer = Linear { weight, bias: Some(values(outputs, 3)) };
            let results = devices.each_ref().map(|cpu| linear(cpu, &x, &layer).unwrap());
            assert_eq!(bits(results[0].data()), bits(results[1].data()), "{dtype}");
            assert_eq!(bits(results[0].data()), bits(results[2].data()), "{dtype}");
            check_linear(&devices[0], &x, &layer, dtype);
        }
    }
}

#[test]
fn a_linear_layer_of_a_wrong_shape_is_an_error() {
    let cpu = device(Isa::Portable, 1);
    let weight = Matrix::from_vec(3, 4, vec![0.0_f32; 12]).unwrap();
    let layer = Linear { weight, bias: Some(vec![0.0; 3]) };
    assert!(is_shape_error(linear(&cpu, &Tensor::zeros(2, 5), &layer)));
    let layer = Linear { bias: Some(vec![0.0; 2]), ..layer };
    assert!(is_shape_error(linear(&cpu, &Tensor::zeros(2, 4), &layer)));
}

/// Layers of one input with these outputs and dtypes, every second with a bias.
pub(crate) fn layers(inputs: usize, layers: &[(usize, DType)]) -> Vec<DeviceLinear<Cpu>> {
    let layer = |(index, &(outputs, dtype)): (usize, &(usize, DType))| {
        let stored = values(outputs * inputs, index as u64);
        let weight = Matrix::from_f32(outputs, inputs, &stored, dtype).unwrap();
        Linear { weight, bias: (index % 2 == 1).then(|| values(outputs, 50 + index as u64)) }
    };
    layers.iter().enumerate().map(layer).collect()
}

/// With one thread the rows of 450 are divided, else the outputs.
#[test]
fn several_linear_layers_give_the_bits_of_each_alone() {
    let [f32, f16, bf16] = [DType::F32, DType::F16, DType::Bf16];
    let groups = [
        &[][..],
        &[(200, f32)],
        &[(1, bf16), (1, bf16), (1, bf16)],
        &[(129, f16), (32, f16), (33, f16), (1, f16)],
        &[(1, bf16), (333, bf16), (64, f32), (17, f32), (1, f16), (200, bf16)],
        &[(101, f32), (1, f32), (333, f32), (16, f32), (15, f32), (1, f32), (97, f32)],
        &[(0, f32), (5, f32), (0, f32), (0, f16), (300, bf16), (0, bf16)],
    ];
    for devices in devices_by_threads() {
        for (group, tokens) in groups.iter().flat_map(|g| [0, 1, 3, 7, 20, 40, 450].map(|t| (g, t)))
        {
            let (x, layers) = (tensor(tokens, 330, 7), layers(330, group));
            let alone: Vec<Tensor> =
                layers.iter().map(|layer| linear(&devices[0], &x, layer).unwrap()).collect();
            for cpu in &devices {
                let what = || format!("{} {tokens} {group:?}", cpu.fingerprint());
                let (scratch, linears) =
                    (&mut Scratch::default(), layers.iter().collect::<Vec<_>>());
                let mut outs: Vec<Tensor> = layers.iter().map(|_| Tensor::default()).collect();
                cpu.linear(&x, &linears, scratch, &mut outs).unwrap();
                for (out, alone) in outs.iter().zip(&alone) {
                    assert_eq!(
                        [out.rows(), out.cols()],
                        [alone.rows(), alone.cols()],
                        "{}",
                        what()
                    );
                    assert_eq!(bits(out.data()), bits(alone.data()), "{}", what());
                }
            }
        }
    }
}

#[test]
fn as_many_results_as_linear_layers_are_needed_and_one_wrong_layer_is_an_error() {
    let cpu = device(Isa::Portable, 1);
    let (x, mut layers) = (tensor(2, 4, 1), layers(4, &[(3, DType::F32); 3]));
    let run = |layers: &[DeviceLinear<Cpu>], results: usize| {
        let mut outs: Vec<Tensor> = (0..results).map(|_| Tensor::default()).collect();
        let linears: Vec<_> = layers.iter().collect();
        cpu.linear(&x, &linears, &mut Scratch::default(), &mut outs)
    };
    assert!(run(&layers, 3).is_ok() && run(&[], 0).is_ok());
    for results in [0, 1, 2, 4] {
        assert!(is_count_error(run(&layers, results)));
    }
    assert!(is_count_error(run(&[], 1)));
    layers[2].bias = Some(vec![0.0; 4]);
    assert!(is_shape_error(run(&layers, 3)));
    layers[2] = self::layers(5, &[(3, DType::F32)]).remove(0);
    assert!(is_shape_error(run(&layers, 3)));
}
