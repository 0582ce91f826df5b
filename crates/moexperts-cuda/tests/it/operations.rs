//! The operations of the GPU against those of the CPU.

use crate::common::{Outcome, Walk, check, devices, read, tensor, values};
use moexperts_conformance::{RouterCase, RouterInputs, RouterLogits, router_cases, run_routers};
use moexperts_core::{
    Activation, DType, Device, Error, ExpertGroups, GateFunction, Matrix, Operations, Result,
    RopePairing, RouteOperands, RouterSpec, Routing, SharedSlices, made,
};
use moexperts_cpu::{Cpu, CpuOptions};
use moexperts_cuda::Cuda;

#[test]
fn every_operation_gives_what_the_cpu_gives() {
    let expected = walk(&Cpu::new(CpuOptions::default()).unwrap());
    for (name, cuda) in devices() {
        check(&name, &walk(&cuda), &expected);
    }
}

/// All operations but products and attention, and their errors.
fn walk<D: Device>(device: &D) -> Vec<Outcome> {
    let mut walk = Walk::new(device);
    // More columns than a block has, and rows that share a block.
    for shape in [[0, 8], [1, 1], [3, 67], [2, 1100], [21, 96]] {
        elementwise(&mut walk, shape);
        norms(&mut walk, shape);
        rows(&mut walk, shape);
    }
    tables(&mut walk);
    for [tokens, heads, head_dim, half] in
        [[5, 3, 8, 4], [2, 33, 64, 32], [4, 2, 10, 3], [3, 3, 6, 0]]
    {
        rope(&mut walk, [tokens, heads * head_dim], head_dim, [tokens, half], [tokens, half]);
    }
    rope(&mut walk, [2, 8], 4, [2, 3], [2, 3]);
    rope(&mut walk, [2, 8], 4, [3, 2], [3, 2]);
    rope(&mut walk, [2, 8], 4, [2, 2], [2, 1]);
    rope(&mut walk, [2, 9], 4, [2, 2], [2, 2]);
    rope(&mut walk, [2, 8], 0, [2, 0], [2, 0]);
    routings(&mut walk);
    walk.outcomes
}

fn elementwise<D: Device>(walk: &mut Walk<'_, D>, [rows, cols]: [usize; 2]) {
    let what = |operation: &str| format!("{operation} of [{rows}, {cols}]");
    walk.changed(&what("scale"), 0.0, [rows, cols], |device, x| device.scale(x, 0.37));
    for function in GateFunction::ALL {
        // Gates for each row, each half of a row and each value; gates that do not fit.
        for gates in [[rows, 1], [rows, 2], [rows, cols], [rows, 0], [rows + 1, 1]] {
            walk.changed(&what("gate"), 1e-6, [rows, cols], |device, x| {
                let mut gate = D::Tensor::default();
                let values =
                    values(gates[0] * gates[1], 3).iter().map(|x| 30.0 * x).collect::<Vec<_>>();
                device.load_tensor(gates[0], gates[1], &values, &mut gate)?;
                device.gate(x, &gate, function)
            });
        }
    }
    let wider = [rows, cols + 1];
    for [y_rows, y_cols] in [[rows, cols], wider] {
        walk.changed(&what("add"), 0.0, [rows, cols], |device, x| {
            device.add(x, &tensor(device, y_rows, y_cols, 2), 1.0)
        });
        walk.changed(&what("add of a multiple"), 1e-6, [rows, cols], |device, x| {
            device.add(x, &tensor(device, y_rows, y_cols, 2), -0.3)
        });
        for gates in [[rows, 1], [rows + 1, 1], [rows, 2]] {
            walk.changed(&what("add_gated"), 1e-6, [rows, cols], |device, x| {
                let mut gate = D::Tensor::default();
                let values =
                    values(gates[0] * gates[1], 3).iter().map(|x| 30.0 * x).collect::<Vec<_>>();
                device.load_tensor(gates[0], gates[1], &values, &mut gate)?;
                device.add_gated(x, &tensor(device, y_rows, y_cols, 2), &gate)
            });
        }
        for activation in Activation::ALL {
            let scaled = |device: &D, cols: usize, seed: u64| {
                let mut out = D::Tensor::default();
                let mut values = values(rows * cols, seed);
                values.iter_mut().for_each(|value| *value *= 12.0);
                // NaN, which an activation may not lose, in the gate or in the up.
                values.iter_mut().skip(seed as usize).step_by(7).for_each(|x| *x = f32::NAN);
                device.load_tensor(rows, cols, &values, &mut out).map(|()| out)
            };
            for gated in [true, false] {
                let what = what(&format!("{} {gated}", activation.name()));
                walk.made(&what, 4e-6, |device, out| {
                    *out = scaled(device, cols, 5)?;
                    let gate = scaled(device, y_cols, 4)?;
                    device.activate(activation, gated.then_some(&gate), out)
                });
            }
        }
    }
    walk.made(&what("clamp"), 0.0, |device, out| {
        let mut values = values(rows * cols, 6);
        for (value, special) in values.iter_mut().zip([f32::NAN, f32::INFINITY, -7.0, -0.0]) {
            *value = special;
        }
        device.load_tensor(rows, cols, &values, out)?;
        device.clamp(out, 0.5)
    });
    walk.made(&what("reshape"), 0.0, |device, out| {
        *out = device.reshape(tensor(device, rows, cols, 1), rows)?;
        Ok(())
    });
}

fn norms<D: Device>(walk: &mut Walk<'_, D>, [rows, cols]: [usize; 2]) {
    for width in [cols, cols / 4, 1, 0, cols + 1] {
        let what = format!("norm of [{rows}, {cols}] by {width}");
        let vector = |device: &D, seed| device.load_vector(values(width, seed));
        walk.made(&format!("rms {what}"), 4e-6, |device, out| {
            let x = tensor(device, rows, cols, 1);
            device.rms_norm(&x, &vector(device, 2)?, 1e-5, out)
        });
        walk.made(&format!("layer {what}"), 4e-6, |device, out| {
            let x = tensor(device, rows, cols, 1);
            device.layer_norm(&x, &vector(device, 2)?, &vector(device, 3)?, 1e-5, out)
        });
        for y_rows in [rows, rows + 1] {
            walk.changed(&format!("sum, then {what}"), 0.0, [rows, cols], |device, x| {
                let y = tensor(device, y_rows, cols, 4);
                let weight = vector(device, 2)?;
                let mut sum = tensor(device, rows, cols, 1);
                let out = made(|out| device.add_rms_norm(x, &y, 1.0, &weight, 1e-5, out))?;
                device.add(&mut sum, &y, 1.0)?;
                let apart = made(|out| device.rms_norm(&sum, &weight, 1e-5, out))?;
                assert_eq!(read(device, &out), read(device, &apart), "{what}");
                Ok(())
            });
        }
    }
}

fn rows<D: Device>(walk: &mut Walk<'_, D>, [rows, cols]: [usize; 2]) {
    let reversed: Vec<usize> = (0..rows).rev().step_by(2).collect();
    for (chosen, y_cols) in [(&reversed[..], cols), (&[], cols), (&[rows], cols), (&[0], cols + 1)]
    {
        let what = |operation: &str| format!("{operation} {chosen:?} of [{rows}, {cols}]");
        walk.made(&what("select_rows"), 0.0, |device, out| {
            device.select_rows(&tensor(device, rows, cols, 1), chosen, out)
        });
        for y_rows in [chosen.len(), chosen.len() + 1] {
            walk.changed(&what("put_rows"), 0.0, [rows, cols], |device, x| {
                device.put_rows(x, chosen, &tensor(device, y_rows, y_cols, 2))
            });
            walk.changed(&what("add_rows"), 0.0, [rows, cols], |device, x| {
                device.add_rows(x, chosen, &tensor(device, y_rows, y_cols, 2))
            });
        }
    }
}

fn tables<D: Device>(walk: &mut Walk<'_, D>) {
    for (dtype, cols) in DType::ALL.into_iter().flat_map(|dtype| [(dtype, 33), (dtype, 1100)]) {
        // Every second row of what is stored.
        let stored = Matrix::from_f32(18, cols, &values(18 * cols, 8), dtype).unwrap();
        let table = walk.device.load_matrix(stored.rows_stepped(1..18, 2)).unwrap();
        let what = |operation: &str, ids: &[u32]| format!("{operation} {ids:?} {dtype}");
        for ids in [&[8, 0, 8, 3][..], &[], &[0, 9], &[u32::MAX]] {
            walk.made(&what("embed", ids), 0.0, |device, out| device.embed(&table, ids, out));
        }
        for (ids, weights, taps) in [
            (&[8, 0, 8, 3, 1, 2][..], 6, 3),
            (&[8, 3], 2, 1),
            (&[], 0, 3),
            (&[0, 9], 2, 2),
            (&[0, 1], 1, 2),
            (&[0, 1, 2], 3, 2),
            (&[0, 1], 2, 0),
        ] {
            walk.made(&what("bags", ids), 1e-6, |device, out| {
                device.embedding_bag(&table, ids, &values(weights, 9), taps, out)
            });
        }
    }
}

fn rope<D: Device>(
    walk: &mut Walk<'_, D>,
    x: [usize; 2],
    head_dim: usize,
    cos: [usize; 2],
    sin: [usize; 2],
) {
    for pairing in RopePairing::ALL {
        let what = format!("rope of {x:?} by {head_dim}, {pairing:?}");
        walk.changed(&what, 1e-6, x, |device, x| {
            let [cos, sin] = [(cos, 2), (sin, 3)].map(|([r, c], seed)| tensor(device, r, c, seed));
            device.rope(x, head_dim, pairing, &cos, &sin)
        });
    }
}

fn routings<D: Device>(walk: &mut Walk<'_, D>) {
    let routed = |routing: Routing| {
        let ids = routing.top_k_index().iter().map(|&id| id as f32);
        let shape = [routing.tokens() as f32, routing.top_k() as f32];
        (shape.into_iter().chain(ids).collect::<Vec<_>>(), routing.top_k_weights().to_vec())
    };
    let push = |walk: &mut Walk<'_, D>, what: &str, result: Result<D::Routing>| {
        let result = result.and_then(|routing| walk.device.read_routing(&routing)).map(routed);
        walk.push(&format!("ids of {what}"), 0.0, result.clone().map(|(ids, _)| ids));
        walk.push(&format!("weights of {what}"), 1e-6, result.map(|(_, weights)| weights));
    };
    for (tokens, experts, top_k, slices) in [
        (9, 33, 1, 0),
        (9, 33, 33, 2),
        (5, 8, 0, 3),
        (1, 128, 8, 0),
        (6, 513, 40, 1),
        (0, 4, 2, 0),
        (2, 1, 1, 0),
        (2, 3, 4, 0),
    ] {
        // Many equal ones, zeros of both signs among them.
        let logits: Vec<f32> =
            values(tokens * experts, 1).iter().map(|x| (9.0 * x).trunc() / 2.0).collect();
        for (normalise, gates) in [(false, 0), (true, 1), (true, 2)] {
            let what = format!("[{tokens}, {experts}] to {top_k} + {slices}, {normalise}");
            let spec = RouterSpec::softmax(top_k, normalise);
            let device = walk.device;
            let result = made(|out| {
                let mut x = D::Tensor::default();
                device.load_tensor(tokens, experts, &logits, &mut x)?;
                let gate = tensor(device, tokens, gates, 2);
                let gate = (gates > 0).then_some(&gate);
                let shared = (slices > 0).then_some(SharedSlices { slices, gate });
                // A buffer that held more.
                *out = device.new_routing(900)?;
                device.route_all(900, out)?;
                device.route(&x, &spec, RouteOperands { shared, ..RouteOperands::default() }, out)
            });
            push(walk, &what, result);
        }
    }
    for (pick_bias, per_expert_scale, gates) in [(33, 33, 1), (32, 33, 1), (33, 34, 1), (33, 33, 2)]
    {
        let what = format!("bias [{pick_bias}], scale [{per_expert_scale}], gates {gates}");
        let device = walk.device;
        let result = made(|out| {
            let [bias, scale] = [pick_bias, per_expert_scale].map(|len| values(len, 3));
            let (bias, scale) = (device.load_vector(bias)?, device.load_vector(scale)?);
            let gate = &tensor(device, 9, gates, 2);
            let operands = RouteOperands {
                pick_bias: Some(&bias),
                per_expert_scale: Some(&scale),
                shared: Some(SharedSlices { slices: 2, gate: Some(gate) }),
            };
            let groups = ExpertGroups { count: 3, keep: 2, best: 2, masked: 0.0 };
            let spec = RouterSpec::sigmoid(4).with_groups(groups).with_normalise(1e-20);
            device.route(&tensor(device, 9, 33, 1), &spec, operands, out)
        });
        push(walk, &what, result);
    }
    let result = made(|out| walk.device.route_all(300, out));
    push(walk, "all", result);
}

#[test]
fn every_router_agrees_with_the_reference() {
    for (name, cuda) in devices() {
        let report = run_routers(&cuda).unwrap_or_else(|failure| panic!("{name}: {failure}"));
        assert!(report.compared > 20 * report.undecided, "{report:?}");
        for case in router_cases() {
            cuda.check_router(&case.spec, case.experts, true).unwrap();
        }
    }
}

/// From more experts than shared memory holds for four tokens to more than it holds for one.
#[test]
fn a_router_of_very_many_experts_takes_fewer_tokens_of_a_block_or_is_refused() {
    for (name, cuda) in devices() {
        let most = cuda.properties().shared_bytes_per_block as usize / 4;
        for (experts, fits) in
            [(most / 4 + 1, true), (most / 2 + 1, true), (most, true), (most + 1, false)]
        {
            let case = router_cases().into_iter().find(|case| case.name == "hy_v3").unwrap();
            let case = RouterCase { experts, logits: RouterLogits::Tied, ..case };
            let inputs = case.inputs();
            let result = case.routing(&cuda, &inputs);
            let refused = cuda.check_router(&case.spec, experts, true).err();
            assert_eq!(result.as_ref().err(), refused.as_ref(), "{name}: {experts}");
            match result {
                Ok(routing) => assert_eq!(case.compare(&inputs, &routing), Ok(case.tokens)),
                Err(error) => {
                    let needed = format!("{experts} experts with a pick bias or groups needs");
                    assert!(!fits && error.to_string().contains(&needed), "{name}: {error}");
                }
            }
            assert_eq!(refused.is_none(), fits, "{name}: {experts}");
        }
        let none = RouterSpec::sigmoid(3);
        assert!(matches!(cuda.check_router(&none, 2, false), Err(Error::Router { .. })));
        // Without a bias and groups, no shared memory is needed.
        cuda.check_router(&none, most + 1, false).unwrap();
    }
}

/// The CPU refuses such logits; the GPU would have to wait for the result to refuse them.
#[test]
fn logits_that_are_not_finite_give_nan_weights() {
    for (name, cuda) in devices() {
        for (case, bad) in router_cases()
            .into_iter()
            .zip([f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().cycle())
        {
            let experts = case.experts;
            let mut inputs = case.inputs();
            inputs.logits[experts..2 * experts].fill(bad);
            inputs.logits[2 * experts + experts / 2] = bad;
            let finite = |token: usize| ![1, 2].contains(&token);
            check_poisoned(&format!("{name}: {case:?} {bad}"), &case, &cuda, &inputs, finite);
            if let Some(bias) = &mut inputs.pick_bias {
                bias[experts / 2] = bad;
                check_poisoned(
                    &format!("{name}: {case:?} bias {bad}"),
                    &case,
                    &cuda,
                    &inputs,
                    |_| false,
                );
            }
        }
    }
}

/// Whether the weights of the right tokens are NaN, and all ids of experts that differ.
fn check_poisoned(
    what: &str,
    case: &RouterCase,
    cuda: &Cuda,
    inputs: &RouterInputs,
    finite: impl Fn(usize) -> bool,
) {
    let routing = case.routing(cuda, inputs).unwrap();
    for token in 0..case.tokens {
        let (ids, weights): (Vec<_>, Vec<_>) = routing.pairs(token).unzip();
        let what = format!("{what} {token} {ids:?} {weights:?}");
        assert!(weights.iter().all(|weight| weight.is_nan() != finite(token)), "{what}");
        let is_single = |id: &u32| ids.iter().filter(|other| *other == id).count() == 1;
        assert!(ids.iter().all(|id| (*id as usize) < case.experts && is_single(id)), "{what}");
    }
}
