//! Operations and experts forwards allocate nothing once their buffers have grown. A separate
//! binary with one test, because an allocator is the whole process's: it would count other tests
//! too.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail with them")]

#[path = "it/common/mod.rs"]
mod common;

use std::num::NonZero;

use common::{tensor, values};
use moexperts_conformance::{CountingAllocator, Layer, cases};
use moexperts_core::{
    Activation, AttentionCall, AttentionSpec, Batch, DType, Execution, ExpertGroups, Experts,
    ExpertsCall, Linear, Matrix, Memory, Operations, RopePairing, RouteOperands, RouterSpec,
    Routing, Score, Scratch, SharedSlices, Span, Tensor,
};
use moexperts_cpu::{Cpu, CpuOptions};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// How often the work allocates inside the pool, as in a model: entering it uses a queue that
/// grows.
fn allocations(cpu: &Cpu, work: impl FnOnce() + Send) -> usize {
    cpu.enter(|| {
        let before = ALLOCATOR.allocations();
        work();
        ALLOCATOR.allocations() - before
    })
}

#[test]
fn buffers_that_have_grown_allocate_nothing() {
    for threads in 1..=3 {
        let cpu = Cpu::new(CpuOptions { threads: NonZero::new(threads), isa: None })
            .expect("threads can be made");
        a_forward_after_the_first_allocates_nothing(&cpu);
        // Few rows; enough for panels; enough that threads share them.
        for tokens in [1, 3, 40, 300] {
            an_operation_after_the_first_allocates_nothing(&cpu, tokens);
        }
        reserved_positions_allocate_nothing(&cpu);
    }
}

fn a_forward_after_the_first_allocates_nothing(cpu: &Cpu) {
    let threads = cpu.thread_count();
    let mut measured = 0;
    let backends = Cpu::built_in_experts();
    // Few tokens, and enough that experts have panels.
    for case in cases().iter().filter(|case| ["big", "shape"].contains(&case.name)) {
        let Layer { experts, x, routing } = Layer::new(case);
        let experts = Experts::load(cpu, case.spec, experts).expect("the case is right");
        let mut out = Tensor::zeros(x.rows(), x.cols());
        for backend in &backends {
            let scratch = &mut Scratch::default();
            let mut forward = || {
                let call = ExpertsCall {
                    device: cpu,
                    experts: &experts,
                    x: &x,
                    routing: &routing,
                    scratch,
                };
                allocations(cpu, || {
                    backend.forward(call, &mut out).expect("the case is right");
                })
            };
            assert!(forward() > 0, "the first grows the buffers");
            for _ in 0..10 {
                assert_eq!(forward(), 0, "{case}: {}, {threads} threads", backend.name());
            }
            measured += 1;
        }
    }
    assert!(measured > 0);
}

fn an_operation_after_the_first_allocates_nothing(cpu: &Cpu, tokens: usize) {
    let threads = cpu.thread_count();
    let check = |what: &str, work: &mut (dyn FnMut() + Send)| {
        work();
        for _ in 0..10 {
            assert_eq!(allocations(cpu, &mut *work), 0, "{what} of {tokens}, {threads} threads");
        }
    };
    let (mut x, y, weight) = (tensor(tokens, 160, 1), tensor(tokens, 160, 2), values(32, 3));
    let (cos, sin) = (tensor(tokens, 16, 4), tensor(tokens, 16, 5));
    let (out, scratch) = (&mut Tensor::default(), &mut Scratch::default());
    for dtype in DType::ALL {
        let table = Matrix::from_f32(700, 160, &values(700 * 160, 6), dtype).unwrap();
        let [q, k, v] =
            [(0..500, true), (500..501, false), (501..700, true)].map(|(rows, bias)| {
                let bias = bias.then(|| values(rows.len(), 7));
                Linear { weight: table.row_range(rows), bias }
            });
        let mut outs: [Tensor; 3] = Default::default();
        check("linear", &mut || cpu.linear(&y, &[&q, &k, &v], scratch, &mut outs).unwrap());
        let ids: Vec<u32> = (0..tokens as u32).collect();
        check("embed", &mut || cpu.embed(&table, &ids, out).unwrap());
    }
    check("rms_norm", &mut || cpu.rms_norm(&y, &weight, 1e-5, out).unwrap());
    check("add_rms_norm", &mut || cpu.add_rms_norm(&mut x, &y, 1.0, &weight, 1e-5, out).unwrap());
    check("add", &mut || cpu.add(&mut x, &y, 1.0).unwrap());
    check("rope", &mut || cpu.rope(&mut x, 32, RopePairing::Halves, &cos, &sin).unwrap());
    for activation in Activation::ALL {
        check("activate", &mut || cpu.activate(activation, Some(&y), &mut x).unwrap());
        check("activate", &mut || cpu.activate(activation, None, &mut x).unwrap());
    }
    let rows: Vec<usize> = (0..tokens).rev().collect();
    check("select_rows", &mut || cpu.select_rows(&y, &rows, out).unwrap());
    let (gate, vector) = (&tensor(tokens, 1, 8), &values(160, 9));
    let groups = ExpertGroups { count: 8, keep: 4, best: 2, masked: 0.0 };
    let routing = &mut Routing::default();
    for score in Score::ALL {
        for spec in [RouterSpec::new(8, score), RouterSpec::new(8, score).with_groups(groups)] {
            for some in [false, true] {
                check("route", &mut || {
                    let operands = RouteOperands {
                        pick_bias: some.then_some(vector),
                        per_expert_scale: some.then_some(vector),
                        shared: Some(SharedSlices { slices: 2, gate: some.then_some(gate) }),
                    };
                    cpu.route(&y, &spec.with_normalise(1e-20), operands, routing).unwrap();
                });
                check("route", &mut || {
                    cpu.route(&y, &spec, RouteOperands::default(), routing).unwrap();
                });
            }
        }
    }
}

/// A prompt and then token after token, in each layer; also where a layer with a window drops what
/// it does not see any more.
fn reserved_positions_allocate_nothing(cpu: &Cpu) {
    const PROMPT: usize = 20;
    let threads = cpu.thread_count();
    let sinks = values(6, 4);
    for (sliding_window, positions) in [(None, 200), (Some(50), 1200)] {
        let spec = AttentionSpec {
            heads: 6,
            kv_heads: 3,
            head_dim: 24,
            value_dim: 20,
            scale: 0.2,
            sliding_window,
        };
        let state = &mut cpu.new_state(&[spec.state(); 2], 2).unwrap();
        let (out, scratch) = (&mut Tensor::default(), &mut Scratch::default());
        let mut attend = |state: &mut _, layer, start, tokens| {
            let (q, k, v) = (tensor(tokens, 144, 1), tensor(tokens, 72, 2), tensor(tokens, 60, 3));
            let batch = &Batch::new(vec![Span { sequence: 1, start, tokens }]);
            let (qkv, sinks, spec) = ([&q, &k, &v], Some(&sinks), &spec);
            allocations(cpu, || {
                let call = AttentionCall { qkv, sinks, state, layer, batch, spec, scratch };
                cpu.attention(call, out).unwrap();
            })
        };
        for layer in 0..2 {
            attend(state, layer, 0, 3);
        }
        cpu.reserve_positions(state, 1, positions).unwrap();
        let bytes = cpu.state_bytes(state);
        // The buffers beside the state grow.
        attend(state, 0, 0, PROMPT);
        attend(state, 0, PROMPT, 1);
        for layer in 0..2 {
            assert_eq!(attend(state, layer, 0, PROMPT), 0, "{threads} threads");
            for position in PROMPT..positions {
                assert_eq!(attend(state, layer, position, 1), 0, "{position}, {threads} threads");
            }
        }
        assert_eq!(cpu.state_bytes(state), bytes);
        assert!(attend(state, 0, positions, positions) > 0, "positions that were not reserved");
    }
}
