//! Earlier contents of a result and of a caller's scratch do not matter.

use moexperts_core::{
    AttentionCall, AttentionSpec, Batch, DType, DeviceLinear, Matrix, Memory, Operations, Result,
    RouteOperands, RouterSpec, Routing, Scratch, SharedSlices, Span, Tensor, made,
};
use moexperts_cpu::Cpu;

use super::linear::layers;
use crate::common::{bits, devices, tensor, values};

/// Runs an operation with a new result and new scratch, then with those that held other shapes and
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
fn earlier_contents_of_a_result_do_not_matter() {
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
                cpu.add_rms_norm(&mut x.clone(), &y, 1.0, &weight, 1e-5, out)
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
                        // Leaves more in the scratch than the layers need.
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
    let spec = AttentionSpec {
        heads: 4,
        kv_heads: 2,
        head_dim: 20,
        value_dim: 24,
        scale: 0.2,
        sliding_window: None,
    };
    let qkv = [(80, 1), (40, 2), (48, 3)].map(|(cols, seed)| tensor(tokens, cols, seed));
    let [q, k, v] = &qkv;
    let with_sinks = values(4, 4);
    for sinks in [None, Some(&with_sinks)] {
        check_reuse(what, |scratch, out| {
            let state = &mut cpu.new_state(&[spec.state()], 1)?;
            let batch = &Batch::new(vec![Span { sequence: 0, start: 0, tokens }]);
            let (qkv, spec) = ([q, k, v], &spec);
            cpu.attention(AttentionCall { qkv, sinks, state, layer: 0, batch, spec, scratch }, out)
        });
    }
    let segments = [tokens / 3, tokens - tokens / 3];
    check_reuse(&format!("full {what}"), |_, out| {
        cpu.full_attention([q, k, v], &segments, &spec, out)
    });
}

#[test]
fn earlier_contents_of_a_routing_and_of_read_values_do_not_matter() {
    for cpu in devices() {
        let (logits, gate) = (tensor(20, 33, 16), tensor(20, 1, 17));
        for (slices, top_k) in [(0, 4), (0, 0), (3, 4), (2, 33)] {
            let spec = RouterSpec::softmax(top_k, true);
            let operands = || RouteOperands {
                shared: (slices > 0).then_some(SharedSlices { slices, gate: Some(&gate) }),
                ..RouteOperands::default()
            };
            let fresh = made(|out| cpu.route(&logits, &spec, operands(), out)).unwrap();
            for (tokens, pairs) in [(1, 1), (20, top_k + slices), (90, 40), (0, 5)] {
                let len = tokens * pairs;
                let mut out =
                    Routing::new(pairs, vec![u32::MAX; len], vec![f32::NAN; len]).unwrap();
                cpu.route(&logits, &spec, operands(), &mut out).unwrap();
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
