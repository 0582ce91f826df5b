//! The operations of [`Cpu`] against plain f64 loops, at every instruction set of this machine.

mod arbitrary;
mod linear;
mod norm;
mod reuse;

use crate::common::{bits, device, devices, devices_by_threads, linear, tensor, values};
use moexperts_conformance::{
    Bounded, RouterCase, Tolerance, check_operation, router_cases, run_routers,
};
use moexperts_core::{
    Activation, DType, Error, GateFunction, Linear, Matrix, Memory, Operation, Operations, Result,
    RopePairing, Tensor, made, reference,
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

fn is_count_error<T>(result: Result<T>) -> bool {
    matches!(result, Err(Error::Count { .. }))
}

#[test]
fn every_operation_is_that_of_its_name() {
    for cpu in devices() {
        let problems = Operation::ALL.map(|operation| check_operation(&cpu, operation).err());
        let problems: Vec<String> = problems.into_iter().flatten().collect();
        assert!(problems.is_empty(), "{}: {problems:#?}", cpu.isa().name());
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
    assert!(is_count_error(made(|out| cpu.embedding_bag(&table, &[0, 1, 2], &[1.0; 3], 2, out))));
    assert!(is_count_error(made(|out| cpu.embedding_bag(&table, &[0, 1], &[1.0; 1], 2, out))));
    assert!(is_count_error(made(|out| cpu.embedding_bag(&table, &[0, 1], &[1.0; 2], 0, out))));
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
            for pairing in RopePairing::ALL {
                check_rope(&cpu, [5, 3], [head_dim, half], pairing);
            }
        }
    }
}

/// Turns `half` pairs of each head of a token.
fn check_rope(
    cpu: &Cpu,
    [tokens, heads]: [usize; 2],
    [head_dim, half]: [usize; 2],
    pairing: RopePairing,
) {
    let x = tensor(tokens, heads * head_dim, 6);
    let angles = values(tokens * half, 7);
    let of = |function: fn(f32) -> f32| {
        let values = angles.iter().map(|&angle| function(3.0 * angle)).collect();
        Tensor::from_vec(tokens, half, values).unwrap()
    };
    let (cos, sin) = (of(f32::cos), of(f32::sin));
    let mut turned = x.clone();
    cpu.rope(&mut turned, head_dim, pairing, &cos, &sin).unwrap();
    let both = x.data().chunks_exact(head_dim).zip(turned.data().chunks(head_dim));
    for (index, (old, got)) in both.enumerate() {
        let token = index / heads;
        let rest = 2 * half..head_dim;
        assert_eq!(bits(&got[rest.clone()]), bits(&old[rest]));
        for pair in 0..half {
            let [first, second] = pairing.places(pair, half);
            let (cos, sin) = (cos.row(token)[pair], sin.row(token)[pair]);
            for (place, other, sign) in [(first, second, -1.0), (second, first, 1.0)] {
                let kept = f64::from(old[place]) * f64::from(cos);
                let moved = sign * f64::from(old[other]) * f64::from(sin);
                let allowance = 3.0 * ROUNDING * (kept.abs() + moved.abs());
                assert_near(got[place], kept + moved, allowance, || {
                    format!("{} {pairing:?} of {head_dim}, at {place}", cpu.isa())
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
        cpu.rope(&mut Tensor::zeros(2, cols), head_dim, RopePairing::Halves, &cos, &sin)
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
        cpu.add(&mut sum, &y, 1.0).unwrap();
        let expected: Vec<f32> = x.data().iter().zip(y.data()).map(|(x, y)| x + y).collect();
        assert_eq!(bits(sum.data()), bits(&expected));
        assert!(is_shape_error(cpu.add(&mut sum, &Tensor::zeros(7, 36), 1.0)));
        assert!(is_shape_error(cpu.add(&mut sum, &Tensor::zeros(37, 7), 1.0)));
    }
}

#[test]
fn a_multiple_is_added_and_values_are_scaled() {
    for cpu in devices() {
        let (x, y) = (tensor(7, 37, 10), tensor(7, 37, 11));
        let (mut sum, mut scaled) = (x.clone(), x.clone());
        cpu.add(&mut sum, &y, -0.3).unwrap();
        cpu.scale(&mut scaled, 0.37).unwrap();
        for at in 0..x.data().len() {
            let (x, y) = (f64::from(x.data()[at]), f64::from(y.data()[at]));
            let moved = f64::from(-0.3_f32) * y;
            let allowance = 2.0 * ROUNDING * (x.abs() + moved.abs());
            assert_near(sum.data()[at], x + moved, allowance, || format!("{} sum", cpu.isa()));
            assert_eq!(scaled.data()[at], x as f32 * 0.37, "{}", cpu.isa());
        }
    }
}

#[test]
fn a_gate_has_a_factor_for_each_of_some_neighbours() {
    for cpu in devices() {
        let x = tensor(9, 36, 12);
        for function in GateFunction::ALL {
            for factors in [1, 2, 36] {
                let gates: Vec<f32> =
                    values(9 * factors, 13).iter().map(|value| 30.0 * value).collect();
                let gate = Tensor::from_vec(9, factors, gates).unwrap();
                let mut gated = x.clone();
                cpu.gate(&mut gated, &gate, function).unwrap();
                for (at, (&got, &old)) in gated.data().iter().zip(x.data()).enumerate() {
                    let (row, col) = (at / 36, at % 36);
                    let z = f64::from(gate.row(row)[col / (36 / factors)]);
                    let expected = f64::from(old) * reference::gate(function, z);
                    let allowance = 8.0 * ROUNDING * expected.abs() + 1e-37;
                    assert_near(got, expected, allowance, || {
                        format!("{} {function:?} of {z}, {factors} factors", cpu.isa())
                    });
                }
            }
            for shape in [[9, 0], [9, 5], [8, 1]] {
                let gate = Tensor::zeros(shape[0], shape[1]);
                assert!(is_shape_error(cpu.gate(&mut x.clone(), &gate, function)));
            }
        }
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
fn every_router_is_the_references() {
    for cpu in devices() {
        let report = run_routers(&cpu).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(report.compared > 20 * report.undecided, "{report:?}");
    }
}

#[test]
fn a_router_refuses_a_token_whose_logits_are_not_finite() {
    let cpu = device(Isa::Portable, 2);
    for case in router_cases() {
        let mut inputs = case.inputs();
        inputs.logits[2 * case.experts] = f32::NAN;
        inputs.logits[4 * case.experts - 1] = f32::INFINITY;
        let error = case.routing(&cpu, &inputs).unwrap_err();
        assert_eq!(error, Error::NotFinite { what: "router logits".into(), token: 2 }, "{case:?}");
    }
}

#[test]
fn an_operand_of_another_length_is_an_error() {
    let cpu = device(Isa::Portable, 1);
    for case in router_cases() {
        let mut inputs = case.inputs();
        for vector in [&mut inputs.pick_bias, &mut inputs.per_expert_scale] {
            vector.get_or_insert_with(Vec::new).resize(case.experts + 1, 1.0);
        }
        assert!(is_shape_error(case.routing(&cpu, &inputs)), "{case:?}");
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
            cpu.rope(&mut turned, 32, RopePairing::Halves, &cos, &sin).unwrap();
            outputs.push(turned);
            let mut sum = x.clone();
            cpu.add_gated(&mut sum, &y, &gate).unwrap();
            cpu.activate(Activation::Silu, Some(&y), &mut sum).unwrap();
            outputs.push(sum);
            let outputs = outputs.iter().flat_map(|output| bits(output.data()));
            let some = router_cases().into_iter().step_by(7);
            let routings = some.flat_map(|case| {
                // Enough tokens that threads share them.
                let case = RouterCase { tokens: 300, ..case };
                let routing = case.routing(&cpu, &case.inputs()).unwrap();
                [routing.top_k_index(), &bits(routing.top_k_weights())].concat()
            });
            outputs.chain(routings).collect::<Vec<_>>()
        });
        assert_eq!(outputs[0], outputs[1]);
        assert_eq!(outputs[0], outputs[2]);
    }
}
