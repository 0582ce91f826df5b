//! Attention of the GPU against that of the CPU, and what must not change its bits.

use crate::common::{
    Outcome, Walk,
    attention::{AttentionLayer, Session, spec},
    bits, check, devices, read, tensor,
};
use moexperts_core::{
    AttentionCall, AttentionSpec, Batch, Device, Execution, Memory, Operations, Scratch, Span,
    StateSpec,
};
use moexperts_cpu::{Cpu, CpuOptions};
use moexperts_cuda::{CudaTensor, Recording};

#[test]
fn attention_gives_what_the_cpu_gives() {
    let expected = walk(&Cpu::new(CpuOptions::default()).unwrap());
    for (name, cuda) in devices() {
        check(&name, &walk(&cuda), &expected);
    }
}

/// How far attention may be off, times values beyond 1.
const ALLOWANCE: f32 = 1e-5;

fn walk<D: Device>(device: &D) -> Vec<Outcome> {
    let mut walk = Walk::new(device);
    // Head widths of all kernels, multiples of four and others; one and many queries for a key.
    let shapes = [
        (1, 1, 8),
        (4, 4, 5),
        (6, 2, 16),
        (16, 1, 33),
        (34, 1, 4),
        (4, 1, 72),
        (8, 8, 128),
        (2, 1, 130),
        (6, 1, 192),
        (3, 3, 250),
    ];
    for (heads, kv_heads, head_dim) in shapes {
        let windows: &[_] = if head_dim == 16 { &[1, 9, 64, 1000] } else { &[9] };
        for sliding_window in [None].into_iter().chain(windows.iter().copied().map(Some)) {
            let spec = AttentionSpec { sliding_window, ..spec(heads, kv_heads, head_dim) };
            let mut session = Session::of(
                device,
                &[AttentionLayer::new(spec), AttentionLayer::new(spec).of_all()],
            );
            for spans in [
                // Prompts, one of a single token and one of none.
                &[(2, 0, 13), (0, 0, 1), (1, 0, 70), (2, 13, 0)][..],
                &[(0, 1, 1), (2, 13, 1), (1, 70, 1)],
                // A part of a prompt beside steps, two of them of one sequence; then four at once.
                &[(1, 71, 80), (0, 2, 1), (0, 3, 1)],
                &[(0, 4, 4), (1, 151, 1)],
                &[(1, 152, 3)],
                // Other positions in place of those from 20 on.
                &[(1, 20, 3)],
            ] {
                let values = session.values(spans);
                walk.push(&format!("{spec:?} {spans:?}"), ALLOWANCE, values);
            }
        }
    }
    // Keys in several parts, and in larger parts.
    let mut session = Session::new(device, spec(2, 1, 4));
    for (sliding_window, spans) in [
        (Some(1), (0, 0, 4090)),
        (None, (0, 4090, 3)),
        (Some(4090), (0, 4093, 3)),
        (None, (0, 4096, 1)),
        (Some(4096), (0, 4097, 60)),
        (Some(4097), (0, 4157, 1)),
        (None, (0, 4158, 4)),
    ] {
        session.layers.iter_mut().for_each(|layer| layer.spec.sliding_window = sliding_window);
        let values = session.values(&[spans]);
        walk.push(&format!("{sliding_window:?} {spans:?}"), ALLOWANCE, values);
    }
    values_of_other_widths(&mut walk);
    full(&mut walk);
    errors(&mut walk);
    walk.outcomes
}

/// Values wider and narrower than keys, and sinks: with one key and with many, with keys in one part
/// and in several, in a window and without one.
fn values_of_other_widths<D: Device>(walk: &mut Walk<'_, D>) {
    let shapes = [
        (4, 4, [8, 8]),
        (6, 2, [16, 24]),
        (4, 2, [20, 7]),
        (5, 1, [6, 140]),
        (2, 1, [192, 128]),
        (9, 1, [8, 256]),
        (3, 1, [250, 30]),
    ];
    for (heads, kv_heads, [head_dim, value_dim]) in shapes {
        for sliding_window in [None, Some(9)] {
            let spec =
                AttentionSpec { value_dim, sliding_window, ..spec(heads, kv_heads, head_dim) };
            let layers = [AttentionLayer::new(spec), AttentionLayer::new(spec).with_sinks()];
            let mut session = Session::of(walk.device, &layers);
            for spans in [
                &[(2, 0, 13), (0, 0, 1), (1, 0, 70)][..],
                &[(0, 1, 1), (2, 13, 1), (1, 70, 1)],
                &[(1, 71, 80), (0, 2, 1)],
                &[(0, 3, 4), (1, 151, 1)],
            ] {
                let values = session.values(spans);
                walk.push(&format!("{spec:?} {spans:?}"), ALLOWANCE, values);
            }
        }
    }
    let mut session = Session::of(walk.device, &[AttentionLayer::new(spec(2, 1, 4)).with_sinks()]);
    for spans in [&[(0, 0, 900)][..], &[(0, 900, 1)], &[(0, 901, 3)]] {
        let values = session.values(spans);
        walk.push(&format!("sinks {spans:?}"), ALLOWANCE, values);
    }
}

fn full<D: Device>(walk: &mut Walk<'_, D>) {
    let shapes = [
        (1, 1, [8, 8], &[1, 3, 0, 2][..]),
        (4, 4, [7, 7], &[17, 16]),
        (6, 2, [20, 20], &[33]),
        (1, 1, [72, 72], &[130, 1, 64]),
        (2, 1, [8, 8], &[300]),
        (2, 1, [200, 200], &[70]),
        (2, 2, [8, 8], &[]),
        (2, 1, [24, 100], &[70, 3]),
        (2, 2, [9, 6], &[70, 3]),
    ];
    let run = |walk: &mut Walk<'_, D>, tokens: usize, segments: &[usize], spec: AttentionSpec| {
        let cols = [
            spec.heads * spec.head_dim,
            spec.kv_heads * spec.head_dim,
            spec.kv_heads * spec.value_dim,
        ];
        walk.made(&format!("{spec:?} {segments:?}"), ALLOWANCE, |device, out| {
            let [q, k, v] =
                [0, 1, 2].map(|index| tensor(device, tokens, cols[index], index as u64));
            device.full_attention([&q, &k, &v], segments, &spec, out)
        });
    };
    for (heads, kv_heads, [head_dim, value_dim], segments) in shapes {
        let spec = AttentionSpec { value_dim, scale: 1.5, ..spec(heads, kv_heads, head_dim) };
        run(walk, segments.iter().sum(), segments, spec);
    }
    run(walk, 3, &[1, 1], spec(4, 2, 8));
    run(walk, 3, &[4], spec(4, 2, 8));
    run(walk, 3, &[3], spec(3, 2, 8));
    run(walk, 3, &[3], spec(2, 0, 8));
    run(walk, 3, &[3], spec(2, 2, 0));
    run(walk, 3, &[3], AttentionSpec { sliding_window: Some(2), ..spec(4, 2, 8) });
}

fn errors<D: Device>(walk: &mut Walk<'_, D>) {
    let spec = spec(4, 2, 8);
    for spans in [
        &[(3, 0, 3)][..],
        &[(0, 1, 3)],
        &[(0, 1 << 60, 3)],
        &[(0, 0, 3), (0, 4, 1)],
        &[(0, 0, 3), (0, 2, 1)],
    ] {
        let result = Session::new(walk.device, spec).values(spans);
        walk.push(&format!("{spans:?}"), 0.0, result);
    }
    let mut session = Session::new(walk.device, spec);
    for spans in [&[(0, 0, 5)][..], &[(0, 3, 1), (1, 1, 1)], &[(0, 3, 2)], &[(0, 6, 1)]] {
        let result = session.values(spans);
        walk.push(&format!("{spans:?} after others"), ALLOWANCE, result);
    }
    let mut shapes = |other: AttentionLayer, rows: usize, layer: usize| {
        let cols = [32, 16, 16];
        walk.made(&format!("{:?} {rows} {layer}", other.spec), ALLOWANCE, |device, out| {
            let [q, k, v] = [0, 1, 2].map(|index| tensor(device, rows, cols[index], index as u64));
            let batch = Batch::new(vec![Span { sequence: 0, start: 0, tokens: 3 }]);
            let mut session = Session::of(device, &[AttentionLayer::new(spec), other]);
            session.call([&q, &k, &v], layer, &batch, out)
        });
    };
    let layer = AttentionLayer::new(spec);
    shapes(layer, 3, 1);
    shapes(layer, 2, 1);
    shapes(layer, 3, 2);
    shapes(AttentionLayer { state: StateSpec::None, ..layer }, 3, 1);
    for (heads, kv_heads, head_dim) in [(3, 2, 8), (4, 1, 8), (2, 1, 16)] {
        let other = self::spec(heads, kv_heads, head_dim);
        shapes(AttentionLayer { state: spec.state(), ..AttentionLayer::new(other) }, 3, 1);
    }
    let windowed = |sliding_window| AttentionSpec { sliding_window, ..spec };
    let narrow = windowed(Some(3)).state();
    for window in [None, Some(2), Some(4), Some(0)] {
        shapes(AttentionLayer { state: narrow, ..AttentionLayer::new(windowed(window)) }, 3, 1);
    }
    let device = walk.device;
    let none = device.new_state(&[spec.state(), windowed(Some(0)).state()], 1);
    walk.push("a window of nothing", 0.0, none.map(|_| Vec::new()));
    let reserved = device.reserve_positions(&mut Session::new(device, spec).state, 3, 8);
    walk.push("memory for a sequence that does not exist", 0.0, reserved.map(|()| Vec::new()));
    let sinks = device.load_vector(vec![0.0; 3]).unwrap();
    walk.made("sinks of another number", 0.0, |device, out| {
        let [q, k, v] = [32, 16, 16].map(|cols| tensor(device, 3, cols, 1));
        let batch = &Batch::new(vec![Span { sequence: 0, start: 0, tokens: 3 }]);
        let state = &mut device.new_state(&[spec.state()], 1)?;
        let (qkv, sinks, spec) = ([&q, &k, &v], Some(&sinks), &spec);
        let scratch = &mut Scratch::default();
        let call = AttentionCall { qkv, sinks, state, layer: 0, batch, spec, scratch };
        device.attention(call, out)
    });
}

#[test]
fn an_unsupported_attention_is_refused_by_its_width() {
    for (_, cuda) in devices() {
        for (head_dim, value_dim) in [(1, 1), (256, 256), (192, 128), (4, 256)] {
            let spec = AttentionSpec { value_dim, ..spec(2, 1, head_dim) };
            assert_eq!(cuda.check_attention(&spec, true), Ok(()), "{spec:?}");
        }
        for (head_dim, value_dim) in [(512, 512), (512, 64), (64, 512)] {
            let spec = AttentionSpec { value_dim, ..spec(2, 1, head_dim) };
            let error = cuda.check_attention(&spec, false).unwrap_err().to_string();
            assert_eq!(
                error,
                "CUDA: attention with heads of 512 values is not supported, the CPU has it"
            );
            let run = Session::new(&cuda, spec).values(&[(0, 0, 3)]);
            assert_eq!(run.unwrap_err().to_string(), error);
            let cpu = Cpu::new(CpuOptions::default()).unwrap();
            assert_eq!(cpu.check_attention(&spec, false), Ok(()));
        }
    }
}

/// Other sequences of the batch, reserved memory and the steps in which memory grew change no bit.
#[test]
fn a_sequence_has_the_bits_it_has_alone() {
    for (name, cuda) in devices() {
        for sliding_window in [None, Some(50)] {
            let spec = AttentionSpec { sliding_window, ..spec(6, 2, 12) };
            let layers = [AttentionLayer::new(spec), AttentionLayer::new(spec).of_all()];
            let mut alone = Session::of(&cuda, &layers);
            let prompt = alone.bits(&[(1, 0, 90)]);
            let step = alone.bits(&[(1, 90, 1)]);
            let several = alone.bits(&[(1, 91, 2)]);
            for positions in [0, 100, 1000] {
                let mut beside = Session::of(&cuda, &layers);
                cuda.reserve_positions(&mut beside.state, 1, positions).unwrap();
                let own = |bits: Vec<u32>, first: usize, rows: usize| -> Vec<u32> {
                    let (layer, cols) = (bits.len() / 2, 6 * 12);
                    let of_layer =
                        |layer: &[u32]| layer[first * cols..(first + rows) * cols].to_vec();
                    bits.chunks(layer).flat_map(of_layer).collect()
                };
                let what = format!("{name} {sliding_window:?} {positions}");
                assert_eq!(
                    own(beside.bits(&[(2, 0, 5), (1, 0, 90), (0, 0, 99)]), 5, 90),
                    prompt,
                    "{what}"
                );
                assert_eq!(own(beside.bits(&[(0, 99, 30), (1, 90, 1)]), 30, 1), step, "{what}");
                assert_eq!(own(beside.bits(&[(1, 91, 2), (2, 5, 1)]), 0, 2), several, "{what}");
            }
        }
    }
}

#[test]
fn more_positions_than_there_is_memory_for_are_an_error() {
    for (_, cuda) in devices() {
        let mut session = Session::new(&cuda, spec(2, 1, 8));
        session.values(&[(0, 0, 5)]).unwrap();
        for positions in [usize::MAX, usize::MAX / 12, 1 << 40] {
            let error = cuda.reserve_positions(&mut session.state, 0, positions).unwrap_err();
            assert!(error.to_string().contains("memory"), "{error}");
        }
        // The state is as it was.
        let mut other = Session::new(&cuda, spec(2, 1, 8));
        other.values(&[(0, 0, 5)]).unwrap();
        assert_eq!(session.bits(&[(0, 5, 1)]), other.bits(&[(0, 5, 1)]));
    }
}

#[test]
fn a_batch_that_is_refused_leaves_the_state_as_it_was() {
    for (_, cuda) in devices() {
        let mut session = Session::new(&cuda, spec(2, 1, 8));
        session.values(&[(0, 0, 5)]).unwrap();
        let mut other = Session::new(&cuda, spec(2, 1, 8));
        other.values(&[(0, 0, 5)]).unwrap();
        session.values(&[(0, 3, 1), (1, 1, 1)]).unwrap_err();
        assert!(session.can_cut(0, 5) && !session.can_cut(0, 6));
        assert_eq!(session.bits(&[(0, 5, 1)]), other.bits(&[(0, 5, 1)]));
    }
}

/// From step to step, only uploads change.
#[test]
fn the_steps_of_a_decode_are_launches_of_one_graph() {
    for (name, cuda) in devices() {
        let spec = spec(4, 2, 16);
        let mut session = Session::new(&cuda, spec);
        let mut plain = Session::new(&cuda, spec);
        for session in [&mut session, &mut plain] {
            cuda.reserve_positions(&mut session.state, 0, 300).unwrap();
            cuda.reserve_positions(&mut session.state, 1, 150).unwrap();
            session.values(&[(0, 0, 120), (1, 0, 60)]).unwrap();
        }
        let mut recording = Recording::default();
        let mut outs = [CudaTensor::default(), CudaTensor::default()];
        for step in 0..12 {
            // Each one twice.
            let spans = [(0, 120 + step / 2, 1), (1, 60 + step / 2, 1)];
            let got: Vec<f32> = cuda.enter_plan(Some(&mut recording), || {
                for (layer, out) in outs.iter_mut().enumerate() {
                    session.attend(layer, &spans, out).unwrap();
                }
                outs.iter().flat_map(|out| read(&cuda, out)).collect()
            });
            assert_eq!(bits(&got), plain.bits(&spans), "{name} {step}");
        }
        assert_eq!(recording.graph_launches(), 10, "{name}");
    }
}
