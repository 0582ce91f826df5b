//! The operations of [`Cpu`] against plain f64 loops, at every instruction set of this machine.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail with them")]

mod common;

use common::{bits, device, devices, devices_by_threads, linear, tensor, values};
use moexperts_conformance::{Bounded, Tolerance};
use moexperts_core::{
    Activation, AttentionCall, AttentionSpec, Batch, DType, Device, DeviceLinear, Error,
    KvCacheSpec, Linear, Matrix, Result, RouterSpec, Routing, Scratch, SharedSlices, Span, Tensor,
    made, reference,
};
use moexperts_cpu::{Cpu, Isa};

/// `u`: half the distance from 1 to the next f32.
const ROUNDING: f64 = f32::EPSILON as f64 / 2.0;

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

fn assert_near(got: f32, expected: f64, allowance: f64, what: impl FnOnce() -> String) {
    let off = (f64::from(got) - expected).abs();
    assert!(off <= allowance, "{}: {got}, expected {expected} within {allowance:e}", what());
}

fn is_shape_error<T>(result: Result<T>) -> bool {
    matches!(result, Err(Error::Shape { .. }))
}

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
                    let layer = Linear { weight, bias };
                    let out = linear(&cpu, &x, &layer).unwrap();
                    assert_eq!([out.rows(), out.cols()], [tokens, outputs]);
                    for token in 0..tokens {
                        let exact: Vec<Bounded> =
                            wide(x.row(token)).into_iter().map(Bounded::exact).collect();
                        let expected = reference::linear(&layer, &wide(x.row(token)));
                        let allowed = Tolerance::new(dtype).linear(&layer, &exact);
                        for column in 0..outputs {
                            let got = out.row(token)[column];
                            assert_near(got, expected[column], allowed[column].error, || {
                                format!("{} {dtype} out[{token}, {column}]", cpu.isa())
                            });
                        }
                    }
                }
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
            for token in (0..tokens).step_by(13) {
                let row = wide(x.row(token));
                let exact: Vec<Bounded> = row.iter().map(|&x| Bounded::exact(x)).collect();
                let expected = reference::linear(&layer, &row);
                let allowed = Tolerance::new(dtype).linear(&layer, &exact);
                for column in 0..outputs {
                    let got = results[0].row(token)[column];
                    assert_near(got, expected[column], allowed[column].error, || {
                        format!("{} {dtype} out[{token}, {column}]", devices[0].isa())
                    });
                }
            }
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
fn layers(inputs: usize, layers: &[(usize, DType)]) -> Vec<DeviceLinear<Cpu>> {
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
        assert!(is_shape_error(run(&layers, results)));
    }
    assert!(is_shape_error(run(&[], 1)));
    layers[2].bias = Some(vec![0.0; 4]);
    assert!(is_shape_error(run(&layers, 3)));
    layers[2] = self::layers(5, &[(3, DType::F32)]).remove(0);
    assert!(is_shape_error(run(&layers, 3)));
}

#[test]
fn an_rms_norm_covers_a_row_or_each_head_of_it() {
    for cpu in devices() {
        for (rows, cols, width) in [(5, 67, 67), (3, 64, 64), (4, 96, 32), (2, 35, 5), (6, 7, 1)] {
            let (mut x, weight) = (tensor(rows, cols, 4), values(width, 5));
            x.row_mut(rows - 1).iter_mut().for_each(|value| *value *= 1e-3);
            let out = made(|out| cpu.rms_norm(&x, &weight, 1e-5, out)).unwrap();
            for at in 0..rows * cols {
                let head = at / width * width..(at / width + 1) * width;
                let head = wide(&x.data()[head]);
                let mean = head.iter().map(|x| x * x).sum::<f64>() / width as f64;
                let eps = f64::from(1e-5_f32);
                let expected =
                    head[at % width] / (mean + eps).sqrt() * f64::from(weight[at % width]);
                let allowance = (width + 8) as f64 * ROUNDING * expected.abs();
                assert_near(out.data()[at], expected, allowance, || {
                    format!("{} [{rows}, {cols}] by {width} at {at}", cpu.isa())
                });
            }
        }
        let x = Tensor::zeros(1, 6);
        assert!(is_shape_error(made(|out| cpu.rms_norm(&x, &vec![1.0; 4], 1e-5, out))));
        assert!(is_shape_error(made(|out| cpu.rms_norm(&x, &Vec::new(), 1e-5, out))));
    }
}

#[test]
fn a_sum_and_its_norm_at_once_have_the_bits_of_one_after_the_other() {
    for cpu in devices_by_threads().flatten() {
        // The last is shared among threads.
        for (rows, cols, width) in [(0, 8, 8), (1, 67, 67), (5, 96, 32), (6, 7, 1), (300, 160, 80)]
        {
            let (x, y, weight) = (tensor(rows, cols, 4), tensor(rows, cols, 5), values(width, 6));
            let mut sum = x.clone();
            cpu.add(&mut sum, &y).unwrap();
            let norm = made(|out| cpu.rms_norm(&sum, &weight, 1e-5, out)).unwrap();
            let mut x = x;
            let out = made(|out| cpu.add_rms_norm(&mut x, &y, &weight, 1e-5, out)).unwrap();
            let what = format!("{} [{rows}, {cols}] by {width}", cpu.fingerprint());
            assert_eq!([out.rows(), out.cols()], [rows, cols], "{what}");
            assert_eq!(bits(x.data()), bits(sum.data()), "{what}");
            assert_eq!(bits(out.data()), bits(norm.data()), "{what}");
        }
        let run = |[rows, cols]: [usize; 2], width: usize| {
            let (mut x, y, weight) =
                (Tensor::zeros(2, 6), Tensor::zeros(rows, cols), vec![1.0; width]);
            made(|out| cpu.add_rms_norm(&mut x, &y, &weight, 1e-5, out))
        };
        assert!(run([2, 6], 3).is_ok());
        for (shape, width) in [([3, 6], 6), ([2, 3], 3), ([6, 2], 2), ([2, 6], 4), ([2, 6], 0)] {
            assert!(is_shape_error(run(shape, width)), "{shape:?} {width}");
        }
    }
}

#[test]
fn a_layer_norm_has_the_mean_and_the_deviation_of_a_row() {
    for cpu in devices() {
        for (rows, cols) in [(5, 67), (3, 64), (2, 1), (1, 1152)] {
            let (mut x, weight, bias) = (tensor(rows, cols, 4), values(cols, 5), values(cols, 6));
            // Far from zero, so that the mean matters.
            x.data_mut().iter_mut().for_each(|value| *value += 3.0);
            let out = made(|out| cpu.layer_norm(&x, &weight, &bias, 1e-6, out)).unwrap();
            for at in 0..rows * cols {
                let row = wide(x.row(at / cols));
                let mean = row.iter().sum::<f64>() / cols as f64;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / cols as f64;
                let scale = 1.0 / (variance + f64::from(1e-6_f32)).sqrt();
                let [weight, bias] = [&weight, &bias].map(|v| f64::from(v[at % cols]));
                let expected = (row[at % cols] - mean) * scale * weight + bias;
                // The mean is as exact as its largest term.
                let spread = 4.0 * (cols as f64).sqrt().max(4.0) * ROUNDING * 4.0;
                let allowance = spread * scale * weight.abs() * (1.0 + (expected - bias).abs())
                    + 4.0 * ROUNDING * expected.abs().max(bias.abs());
                assert_near(out.data()[at], expected, allowance, || {
                    format!("{} [{rows}, {cols}] at {at}", cpu.isa())
                });
            }
        }
        let x = Tensor::zeros(1, 6);
        for (weight, bias) in [(5, 6), (6, 5)] {
            let (weight, bias) = (vec![1.0; weight], vec![1.0; bias]);
            assert!(is_shape_error(made(|out| cpu.layer_norm(&x, &weight, &bias, 1e-5, out))));
        }
    }
}

#[test]
fn a_bag_is_the_weighted_sum_of_its_rows() {
    let cpu = device(Isa::Portable, 2);
    let table = Matrix::from_vec(3, 2, vec![1.0_f32, 2.0, 10.0, 20.0, 100.0, 200.0]).unwrap();
    let out = made(|out| cpu.embedding_bag(&table, &[0, 2, 1, 1], &[1.0, 0.5, 2.0, -1.0], 2, out))
        .unwrap();
    assert_eq!((out.rows(), out.data()), (2, &[51.0, 102.0, 10.0, 20.0][..]));
    let beyond = made(|out| cpu.embedding_bag(&table, &[0, 3], &[1.0; 2], 2, out));
    assert_eq!(beyond.unwrap_err(), Error::OutOfRange { what: "row", index: 3, limit: 3 });
    assert!(is_shape_error(made(|out| cpu.embedding_bag(&table, &[0, 1, 2], &[1.0; 3], 2, out))));
    assert!(is_shape_error(made(|out| cpu.embedding_bag(&table, &[0, 1], &[1.0; 1], 2, out))));
    assert!(is_shape_error(made(|out| cpu.embedding_bag(&table, &[0, 1], &[1.0; 2], 0, out))));
}

#[test]
fn rows_are_put_and_added_where_they_belong() {
    let cpu = device(Isa::Portable, 2);
    let y = Tensor::from_vec(2, 2, vec![5.0, 6.0, 7.0, 8.0]).unwrap();
    let ones = Tensor::from_vec(3, 2, vec![1.0; 6]).unwrap();
    let mut x = ones.clone();
    cpu.put_rows(&mut x, &[2, 0], &y).unwrap();
    assert_eq!(x.data(), [7.0, 8.0, 1.0, 1.0, 5.0, 6.0]);
    cpu.add_rows(&mut x, &[1, 2], &y).unwrap();
    assert_eq!(x.data(), [7.0, 8.0, 6.0, 7.0, 12.0, 14.0]);
    let out_of_range = Error::OutOfRange { what: "row", index: 3, limit: 3 };
    for operation in [Cpu::put_rows, Cpu::add_rows] {
        let mut x = ones.clone();
        assert_eq!(operation(&cpu, &mut x, &[0, 3], &y).unwrap_err(), out_of_range);
        assert!(is_shape_error(operation(&cpu, &mut x, &[0], &y)));
        assert!(is_shape_error(operation(&cpu, &mut x, &[0, 1], &Tensor::zeros(2, 3))));
        assert_eq!(x, ones);
    }
}

#[test]
fn a_tensor_of_another_shape_has_the_same_values() {
    let cpu = device(Isa::Portable, 1);
    let x = tensor(6, 4, 1);
    let seen = cpu.reshape(x.clone(), 8).unwrap();
    assert_eq!((seen.rows(), seen.cols(), seen.data()), (3, 8, x.data()));
    assert!(is_shape_error(cpu.reshape(x.clone(), 7)));
    assert!(is_shape_error(cpu.reshape(x, 0)));
}

#[test]
fn rope_turns_the_first_values_of_each_head_and_leaves_the_rest() {
    for cpu in devices() {
        for (head_dim, half) in [(8, 4), (64, 32), (10, 3), (6, 0), (2, 1)] {
            let (tokens, heads) = (5, 3);
            let x = tensor(tokens, heads * head_dim, 6);
            let angles = values(tokens * half, 7);
            let of = |function: fn(f32) -> f32| {
                let values = angles.iter().map(|&angle| function(3.0 * angle)).collect();
                Tensor::from_vec(tokens, half, values).unwrap()
            };
            let (cos, sin) = (of(f32::cos), of(f32::sin));
            let mut turned = x.clone();
            cpu.rope(&mut turned, head_dim, &cos, &sin).unwrap();
            for at in 0..x.data().len() {
                let (token, place) = (at / (heads * head_dim), at % head_dim);
                let (got, old) = (turned.data()[at], x.data()[at]);
                if place >= 2 * half {
                    assert_eq!(got.to_bits(), old.to_bits());
                    continue;
                }
                let (angle, other, sign) = match place < half {
                    true => (place, x.data()[at + half], -1.0),
                    false => (place - half, x.data()[at - half], 1.0),
                };
                let kept = f64::from(old) * f64::from(cos.row(token)[angle]);
                let moved = sign * f64::from(other) * f64::from(sin.row(token)[angle]);
                let allowance = 3.0 * ROUNDING * (kept.abs() + moved.abs());
                assert_near(got, kept + moved, allowance, || {
                    format!("{} head {head_dim}, {half} angles, at {at}", cpu.isa())
                });
            }
        }
    }
}

#[test]
fn rope_of_a_wrong_shape_is_an_error() {
    let cpu = device(Isa::Portable, 1);
    let rope = |cols: usize, head_dim: usize, cos: [usize; 2], sin: [usize; 2]| {
        let [cos, sin] = [cos, sin].map(|[rows, cols]| Tensor::zeros(rows, cols));
        cpu.rope(&mut Tensor::zeros(2, cols), head_dim, &cos, &sin)
    };
    assert!(rope(8, 4, [2, 2], [2, 2]).is_ok());
    assert!(is_shape_error(rope(8, 4, [2, 3], [2, 3])));
    assert!(is_shape_error(rope(8, 4, [3, 2], [3, 2])));
    assert!(is_shape_error(rope(8, 4, [2, 2], [2, 1])));
    assert!(is_shape_error(rope(9, 4, [2, 2], [2, 2])));
    assert!(is_shape_error(rope(8, 0, [2, 0], [2, 0])));
}

#[test]
fn embedding_picks_rows_and_refuses_the_first_id_beyond() {
    for cpu in devices() {
        for dtype in DType::ALL {
            let table = Matrix::from_f32(9, 33, &values(9 * 33, 8), dtype).unwrap();
            let out = made(|out| cpu.embed(&table, &[8, 0, 8, 3], out)).unwrap();
            for (token, id) in [8, 0, 8, 3].into_iter().enumerate() {
                assert_eq!(out.row(token), table.row(id).to_f32());
            }
            assert_eq!(made(|out| cpu.embed(&table, &[], out)).unwrap().rows(), 0);
            let error = made(|out| cpu.embed(&table, &[0, 9], out)).unwrap_err();
            assert_eq!(error, Error::OutOfRange { what: "token id", index: 9, limit: 9 });
            assert!(made(|out| cpu.embed(&table, &[u32::MAX], out)).is_err());
        }
    }
}

#[test]
fn rows_are_selected_in_the_given_order() {
    let cpu = device(Isa::Portable, 1);
    let x = tensor(5, 3, 9);
    let out = made(|out| cpu.select_rows(&x, &[4, 0, 4], out)).unwrap();
    assert_eq!([out.row(0), out.row(1), out.row(2)], [x.row(4), x.row(0), x.row(4)]);
    let error = made(|out| cpu.select_rows(&x, &[5], out)).unwrap_err();
    assert_eq!(error, Error::OutOfRange { what: "row", index: 5, limit: 5 });
}

#[test]
fn adding_rounds_once() {
    for cpu in devices() {
        let (x, y) = (tensor(7, 37, 10), tensor(7, 37, 11));
        let mut sum = x.clone();
        cpu.add(&mut sum, &y).unwrap();
        let expected: Vec<f32> = x.data().iter().zip(y.data()).map(|(x, y)| x + y).collect();
        assert_eq!(bits(sum.data()), bits(&expected));
        assert!(is_shape_error(cpu.add(&mut sum, &Tensor::zeros(7, 36))));
        assert!(is_shape_error(cpu.add(&mut sum, &Tensor::zeros(37, 7))));
    }
}

#[test]
fn a_gated_sum_weighs_each_row_by_the_sigmoid_of_its_gate() {
    for cpu in devices() {
        let (x, y) = (tensor(9, 37, 12), tensor(9, 37, 13));
        let gates = vec![0.0, 1.0, -1.0, 5.0, -5.0, 30.0, -30.0, 100.0, -100.0];
        let gate = Tensor::from_vec(9, 1, gates).unwrap();
        let mut sum = x.clone();
        cpu.add_gated(&mut sum, &y, &gate).unwrap();
        for at in 0..9 * 37 {
            let z = f64::from(gate.data()[at / 37]);
            let part = f64::from(y.data()[at]) / (1.0 + (-z).exp());
            let old = f64::from(x.data()[at]);
            let allowance = ROUNDING * (2.0 * old.abs() + (16.0 + 2.0 * z.abs()) * part.abs());
            let smallest = f64::from(f32::MIN_POSITIVE);
            assert_near(sum.data()[at], old + part, allowance + 2.0 * smallest, || {
                format!("{} gate {z} at {at}", cpu.isa())
            });
        }
        assert!(is_shape_error(cpu.add_gated(&mut sum, &y, &Tensor::zeros(9, 2))));
        assert!(is_shape_error(cpu.add_gated(&mut sum, &y, &Tensor::zeros(8, 1))));
        assert!(is_shape_error(cpu.add_gated(&mut sum, &Tensor::zeros(9, 36), &gate)));
    }
}

#[test]
fn clamping_limits_both_sides_and_changes_nothing_between() {
    let cpu = device(Isa::Portable, 1);
    let values = vec![-9.0, -2.0, -1.5, -0.0, 1.5, 2.0, 2.5, f32::INFINITY, f32::NEG_INFINITY];
    let mut x = Tensor::from_vec(3, 3, values).unwrap();
    cpu.clamp(&mut x, 2.0).unwrap();
    let expected = [-2.0, -2.0, -1.5, -0.0, 1.5, 2.0, 2.0, 2.0, -2.0];
    assert_eq!(bits(x.data()), bits(&expected));
}

#[test]
fn activations_are_the_references() {
    for cpu in devices() {
        let scaled = |seed| {
            let values = values(5 * 67, seed).iter().map(|value| 12.0 * value).collect();
            Tensor::from_vec(5, 67, values).unwrap()
        };
        let (gate, up) = (scaled(14), scaled(15));
        for activation in Activation::ALL {
            for gated in [true, false] {
                let mut out = up.clone();
                cpu.activate(activation, gated.then_some(&gate), &mut out).unwrap();
                let tolerance = Tolerance::new(DType::F32);
                for at in 0..out.data().len() {
                    let exact = |x: &Tensor| Bounded::exact(f64::from(x.data()[at]));
                    let expected = match gated {
                        true => tolerance.activate_gated(activation, exact(&gate), exact(&up)),
                        false => tolerance.activate(activation, exact(&up)),
                    };
                    assert_near(out.data()[at], expected.value, expected.error, || {
                        format!("{} {} at {at}", cpu.isa(), activation.name())
                    });
                }
                let narrow = &Tensor::zeros(5, 66);
                assert!(is_shape_error(cpu.activate(activation, Some(narrow), &mut out)));
            }
        }
    }
}

#[test]
fn routing_is_the_references() {
    for cpu in devices() {
        let logits = tensor(20, 33, 16);
        for (top_k, norm_topk_prob) in [(1, false), (4, true), (8, false), (33, true)] {
            let spec = RouterSpec { top_k, norm_topk_prob };
            let routing = made(|out| cpu.route(&logits, &spec, None, out)).unwrap();
            assert_eq!((routing.tokens(), routing.top_k()), (20, top_k));
            for token in 0..20 {
                let expected = reference::route(&wide(logits.row(token)), &spec);
                for ((id, weight), (expected_id, expected)) in routing.pairs(token).zip(expected) {
                    assert_eq!(id, expected_id);
                    assert_near(weight, expected, 4.0 * ROUNDING * expected, || "weight".into());
                }
            }
        }
    }
}

/// Runs an operation into results and room of its own, then into those that held other shapes and
/// values before, or what the operation left there.
fn check_reuse(what: &str, run: impl Fn(&mut Scratch, &mut Tensor) -> Result<()>) {
    let fresh = made(|out| run(&mut Scratch::default(), out)).unwrap();
    let scratch = &mut Scratch::default();
    for [rows, cols] in [[1, 1], [90, 200], [fresh.rows(), fresh.cols()], [200, 0], [0, 7]] {
        let mut out = Tensor::from_vec(rows, cols, vec![f32::NAN; rows * cols]).unwrap();
        for _ in 0..2 {
            run(scratch, &mut out).unwrap();
            assert_eq!([out.rows(), out.cols()], [fresh.rows(), fresh.cols()], "{what}");
            assert_eq!(bits(out.data()), bits(fresh.data()), "{what} after [{rows}, {cols}]");
        }
    }
}

#[test]
fn what_a_result_held_before_does_not_matter() {
    for cpu in devices() {
        for tokens in [0, 1, 5, 40] {
            let what = |operation: &str| format!("{} {operation} of {tokens}", cpu.isa());
            let (x, y, weight) = (tensor(tokens, 64, 1), tensor(tokens, 64, 2), values(64, 3));
            check_reuse(&what("load_tensor"), |_, out| cpu.load_tensor(tokens, 64, x.data(), out));
            check_reuse(&what("select_rows"), |_, out| {
                cpu.select_rows(&x, &(0..tokens).rev().collect::<Vec<_>>(), out)
            });
            check_reuse(&what("layer_norm"), |_, out| {
                cpu.layer_norm(&x, &weight, &weight, 1e-5, out)
            });
            check_reuse(&what("rms_norm"), |_, out| cpu.rms_norm(&x, &weight, 1e-5, out));
            check_reuse(&what("add_rms_norm"), |_, out| {
                cpu.add_rms_norm(&mut x.clone(), &y, &weight, 1e-5, out)
            });
            for dtype in DType::ALL {
                let table = Matrix::from_f32(9, 33, &values(9 * 33, 8), dtype).unwrap();
                let ids: Vec<u32> = (0..2 * tokens as u32).map(|id| id * 5 % 9).collect();
                check_reuse(&what("embed"), |_, out| cpu.embed(&table, &ids, out));
                check_reuse(&what("embedding_bag"), |_, out| {
                    cpu.embedding_bag(&table, &ids, &values(2 * tokens, 9), 2, out)
                });
                let layers = layers(64, &[(70, dtype), (1, dtype)]);
                let (larger, larger_layer) = larger_layer(dtype);
                for index in 0..2 {
                    check_reuse(&what("linear"), |scratch, out| {
                        // Leaves more in the room than the layers need.
                        cpu.linear(&larger, &[&larger_layer], scratch, &mut [Tensor::default()])?;
                        let mut outs = [Tensor::zeros(300, 3), Tensor::zeros(2, 3)];
                        std::mem::swap(out, &mut outs[index]);
                        cpu.linear(&x, &[&layers[0], &layers[1]], scratch, &mut outs)?;
                        std::mem::swap(out, &mut outs[index]);
                        Ok(())
                    });
                }
            }
            check_attention_reuse(&cpu, tokens, &what("attention"));
        }
    }
}

/// An input of more rows and columns than others have, not a number each, and a layer for it.
fn larger_layer(dtype: DType) -> (Tensor, DeviceLinear<Cpu>) {
    let x = Tensor::from_vec(47, 90, vec![f32::NAN; 47 * 90]).unwrap();
    (x, layers(90, &[(5, dtype)]).remove(0))
}

fn check_attention_reuse(cpu: &Cpu, tokens: usize, what: &str) {
    let spec =
        AttentionSpec { heads: 4, kv_heads: 2, head_dim: 20, scale: 0.2, sliding_window: None };
    let qkv = [(80, 1), (40, 2), (40, 3)].map(|(cols, seed)| tensor(tokens, cols, seed));
    let [q, k, v] = &qkv;
    check_reuse(what, |scratch, out| {
        let cache_spec = KvCacheSpec { layers: 1, kv_heads: 2, head_dim: 20, sequences: 1 };
        let cache = &mut cpu.new_kv_cache(cache_spec)?;
        let batch = Batch::new(vec![Span { sequence: 0, start: 0, tokens }]);
        cpu.attention(
            AttentionCall { qkv: [q, k, v], cache, layer: 0, batch: &batch, spec: &spec, scratch },
            out,
        )
    });
    let segments = [tokens / 3, tokens - tokens / 3];
    check_reuse(&format!("full {what}"), |_, out| {
        cpu.full_attention([q, k, v], &segments, &spec, out)
    });
}

#[test]
fn what_a_routing_and_read_values_held_before_does_not_matter() {
    for cpu in devices() {
        let (logits, gate) = (tensor(20, 33, 16), tensor(20, 1, 17));
        for (slices, top_k) in [(0, 4), (0, 0), (3, 4), (2, 33)] {
            let spec = RouterSpec { top_k, norm_topk_prob: true };
            let shared = || (slices > 0).then_some(SharedSlices { slices, gate: Some(&gate) });
            let fresh = made(|out| cpu.route(&logits, &spec, shared(), out)).unwrap();
            for (tokens, pairs) in [(1, 1), (20, top_k + slices), (90, 40), (0, 5)] {
                let len = tokens * pairs;
                let mut out =
                    Routing::new(pairs, vec![u32::MAX; len], vec![f32::NAN; len]).unwrap();
                cpu.route(&logits, &spec, shared(), &mut out).unwrap();
                assert_eq!(out, fresh);
            }
        }
        for len in [0, 10, 20 * 33, 5000] {
            let mut read = vec![f32::NAN; len];
            cpu.read_tensor(&logits, &mut read).unwrap();
            assert_eq!(bits(&read), bits(logits.data()));
        }
    }
}

#[test]
fn a_tensor_takes_the_shape_it_is_given() {
    let cpu = device(Isa::Portable, 1);
    let mut x = cpu.new_tensor(12).unwrap();
    assert_eq!([x.rows(), x.cols()], [0, 0]);
    for [rows, cols] in [[3, 4], [0, 5], [2, 2], [7, 9]] {
        cpu.reset_tensor(&mut x, rows, cols).unwrap();
        assert_eq!([x.rows(), x.cols(), x.data().len()], [rows, cols, rows * cols]);
    }
    assert!(is_shape_error(cpu.load_tensor(2, 3, &[0.0; 5], &mut x)));
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    // Sizes that are shared among threads.
    let (x, y, gate) = (tensor(300, 160, 17), tensor(300, 160, 18), tensor(300, 1, 19));
    let (cos, sin) = (tensor(300, 10, 20), tensor(300, 10, 21));
    for devices in devices_by_threads() {
        let outputs = devices.map(|cpu: Cpu| {
            let mut outputs = Vec::new();
            for dtype in DType::ALL {
                let weight = Matrix::from_f32(200, 160, &values(200 * 160, 22), dtype).unwrap();
                let layer = Linear { weight, bias: Some(values(200, 23)) };
                outputs.push(linear(&cpu, &x, &layer).unwrap());
            }
            outputs.push(made(|out| cpu.rms_norm(&x, &values(32, 24), 1e-6, out)).unwrap());
            let (weight, bias) = (values(160, 24), values(160, 25));
            outputs.push(made(|out| cpu.layer_norm(&x, &weight, &bias, 1e-6, out)).unwrap());
            let mut turned = x.clone();
            cpu.rope(&mut turned, 32, &cos, &sin).unwrap();
            outputs.push(turned);
            let mut sum = x.clone();
            cpu.add_gated(&mut sum, &y, &gate).unwrap();
            cpu.activate(Activation::Silu, Some(&y), &mut sum).unwrap();
            outputs.push(sum);
            outputs.iter().flat_map(|output| bits(output.data())).collect::<Vec<_>>()
        });
        assert_eq!(outputs[0], outputs[1]);
        assert_eq!(outputs[0], outputs[2]);
    }
}
