//! Attention of the GPU against that of the CPU, and what must not change a bit of it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail with them")]

mod common;

use std::mem;

use common::{Outcome, Walk, bits, check, devices, read, tensor, values};
use moexperts_core::{
    AttentionCall, AttentionSpec, Batch, Device, Error, KvCacheSpec, Result, Scratch, Span,
};
use moexperts_cpu::{Cpu, CpuOptions};
use moexperts_cuda::{CudaTensor, Recording};

/// Sequence, first position, tokens.
type Spans = [(usize, usize, usize)];

fn spec(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionSpec {
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionSpec { heads, kv_heads, head_dim, scale, sliding_window: None }
}

/// A cache with what its caller keeps.
struct Session<'a, D: Device> {
    device: &'a D,
    spec: AttentionSpec,
    cache: D::KvCache,
    scratch: Scratch,
    /// Queries, keys and values of each layer.
    inputs: [[D::Tensor; 3]; 2],
}

impl<'a, D: Device> Session<'a, D> {
    fn new(device: &'a D, spec: AttentionSpec) -> Self {
        let AttentionSpec { kv_heads, head_dim, .. } = spec;
        let cache = KvCacheSpec { layers: 2, kv_heads, head_dim, sequences: 3 };
        let cache = device.new_kv_cache(cache).unwrap();
        Self { device, spec, cache, scratch: Scratch::default(), inputs: Default::default() }
    }

    /// Attends in one layer. Queries, keys and values follow from the layer, the sequence and the
    /// position of a token.
    fn attend(&mut self, layer: usize, spans: &Spans, out: &mut D::Tensor) -> Result<()> {
        let AttentionSpec { heads, kv_heads, head_dim, .. } = self.spec;
        let span = |&(sequence, start, tokens)| Span { sequence, start, tokens };
        let batch = Batch::new(spans.iter().map(span).collect());
        // Scores of several units, so that the softmax has peaks.
        let parts = [(heads, 6.0), (kv_heads, 1.0), (kv_heads, 1.0)];
        let mut inputs = mem::take(&mut self.inputs[layer]);
        for (seed, (input, (heads, factor))) in (1..).zip(inputs.iter_mut().zip(parts)) {
            let cols = heads * head_dim;
            let rows = spans.iter().flat_map(|&(sequence, start, tokens)| {
                (start..start + tokens).flat_map(move |position| {
                    let place = (4 * position as u64).wrapping_add(sequence as u64);
                    values(cols, place.wrapping_mul(100) + 10 * layer as u64 + seed)
                })
            });
            let values: Vec<f32> = rows.map(|value| factor * value).collect();
            self.device.load_tensor(batch.tokens(), cols, &values, input)?;
        }
        let [q, k, v] = &inputs;
        let result = self.call([q, k, v], layer, &batch, out);
        self.inputs[layer] = inputs;
        result
    }

    fn call(
        &mut self,
        qkv: [&D::Tensor; 3],
        layer: usize,
        batch: &Batch,
        out: &mut D::Tensor,
    ) -> Result<()> {
        let (cache, scratch) = (&mut self.cache, &mut self.scratch);
        let call = AttentionCall { qkv, cache, layer, batch, spec: &self.spec, scratch };
        self.device.attention(call, out)
    }

    /// What attention gives in both layers.
    fn values(&mut self, spans: &Spans) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for layer in 0..2 {
            let mut out = D::Tensor::default();
            self.attend(layer, spans, &mut out)?;
            all.extend(read(self.device, &out));
        }
        Ok(all)
    }

    fn bits(&mut self, spans: &Spans) -> Vec<u32> {
        bits(&self.values(spans).unwrap())
    }
}

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
    // Head widths of all kernels, also such as are no fours; one and many queries to a key.
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
            let mut session = Session::new(device, spec);
            for spans in [
                // Prompts, one of a single token and one of none.
                &[(2, 0, 13), (0, 0, 1), (1, 0, 70), (2, 13, 0)][..],
                &[(0, 1, 1), (2, 13, 1), (1, 70, 1)],
                // A part of a prompt beside steps, two of them of one sequence; then four at once.
                &[(1, 71, 80), (0, 2, 1), (0, 3, 1)],
                &[(0, 4, 4), (1, 151, 1)],
                &[(1, 152, 3)],
                // Others in the place of those from 20 on.
                &[(1, 20, 3)],
            ] {
                let values = session.values(spans);
                walk.push(&format!("{spec:?} {spans:?}"), ALLOWANCE, values);
            }
        }
    }
    // As many keys as several parts are of, and larger parts.
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
        session.spec.sliding_window = sliding_window;
        let values = session.values(&[spans]);
        walk.push(&format!("{:?} {spans:?}", session.spec), ALLOWANCE, values);
    }
    full(&mut walk);
    errors(&mut walk);
    walk.outcomes
}

fn full<D: Device>(walk: &mut Walk<'_, D>) {
    let shapes = [
        (1, 1, 8, &[1, 3, 0, 2][..]),
        (4, 4, 7, &[17, 16]),
        (6, 2, 20, &[33]),
        (1, 1, 72, &[130, 1, 64]),
        (2, 1, 8, &[300]),
        (2, 1, 200, &[70]),
        (2, 2, 8, &[]),
    ];
    let run = |walk: &mut Walk<'_, D>, tokens: usize, segments: &[usize], spec: AttentionSpec| {
        let cols = [spec.heads, spec.kv_heads, spec.kv_heads].map(|heads| heads * spec.head_dim);
        walk.made(&format!("{spec:?} {segments:?}"), ALLOWANCE, |device, out| {
            let [q, k, v] =
                [0, 1, 2].map(|index| tensor(device, tokens, cols[index], index as u64));
            device.full_attention([&q, &k, &v], segments, &spec, out)
        });
    };
    for (heads, kv_heads, head_dim, segments) in shapes {
        let spec = AttentionSpec { scale: 1.5, ..spec(heads, kv_heads, head_dim) };
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
    for spans in [&[(3, 0, 3)][..], &[(0, 1, 3)], &[(0, 1 << 60, 3)]] {
        let result = Session::new(walk.device, spec).values(spans);
        walk.push(&format!("{spans:?}"), 0.0, result);
    }
    let mut session = Session::new(walk.device, spec);
    for spans in [&[(0, 0, 5)][..], &[(0, 3, 1), (1, 1, 1)], &[(0, 3, 2)], &[(0, 6, 1)]] {
        let result = session.values(spans);
        walk.push(&format!("{spans:?} after others"), ALLOWANCE, result);
    }
    let mut shapes = |other: AttentionSpec, rows: usize, layer: usize| {
        let cols = [32, 16, 16];
        walk.made(&format!("{other:?} {rows} {layer}"), ALLOWANCE, |device, out| {
            let [q, k, v] = [0, 1, 2].map(|index| tensor(device, rows, cols[index], index as u64));
            let batch = Batch::new(vec![Span { sequence: 0, start: 0, tokens: 3 }]);
            let mut session = Session::new(device, spec);
            session.spec = other;
            session.call([&q, &k, &v], layer, &batch, out)
        });
    };
    shapes(spec, 3, 1);
    shapes(spec, 2, 1);
    shapes(spec, 3, 2);
    for (heads, kv_heads, head_dim) in [(3, 2, 8), (4, 1, 8), (2, 1, 16)] {
        shapes(self::spec(heads, kv_heads, head_dim), 3, 0);
    }
    let reserved = walk.device.reserve_positions(&mut Session::new(walk.device, spec).cache, 3, 8);
    walk.push("room for a sequence that is none", 0.0, reserved.map(|()| Vec::new()));
}

/// Whichever sequences are beside it, and whatever room is reserved, in whatever steps it grew.
#[test]
fn a_sequence_has_the_bits_it_has_alone() {
    for (name, cuda) in devices() {
        for sliding_window in [None, Some(50)] {
            let spec = AttentionSpec { sliding_window, ..spec(6, 2, 12) };
            let mut alone = Session::new(&cuda, spec);
            let prompt = alone.bits(&[(1, 0, 90)]);
            let step = alone.bits(&[(1, 90, 1)]);
            let several = alone.bits(&[(1, 91, 2)]);
            for positions in [0, 100, 1000] {
                let mut beside = Session::new(&cuda, spec);
                cuda.reserve_positions(&mut beside.cache, 1, positions).unwrap();
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
fn room_for_more_positions_than_there_is_memory_is_an_error() {
    for (_, cuda) in devices() {
        let mut session = Session::new(&cuda, spec(2, 1, 8));
        session.values(&[(0, 0, 5)]).unwrap();
        for positions in [usize::MAX, usize::MAX / 12, 1 << 40] {
            let error = cuda.reserve_positions(&mut session.cache, 0, positions).unwrap_err();
            assert!(error.to_string().contains("memory"), "{error}");
        }
        // What was there is there still.
        let mut other = Session::new(&cuda, spec(2, 1, 8));
        other.values(&[(0, 0, 5)]).unwrap();
        assert_eq!(session.bits(&[(0, 5, 1)]), other.bits(&[(0, 5, 1)]));
    }
}

#[test]
fn a_batch_that_fails_keeps_nothing_of_its_spans() {
    for (_, cuda) in devices() {
        let mut session = Session::new(&cuda, spec(2, 1, 8));
        session.values(&[(0, 0, 5)]).unwrap();
        session.values(&[(0, 3, 1), (1, 1, 1)]).unwrap_err();
        let error = session.values(&[(0, 4, 1)]).unwrap_err();
        assert_eq!(error, Error::OutOfRange { what: "position", index: 4, limit: 4 });
        session.values(&[(0, 3, 1)]).unwrap();
    }
}

/// From step to step, only what is uploaded changes.
#[test]
fn the_steps_of_a_decode_are_launches_of_one_graph() {
    for (name, cuda) in devices() {
        let spec = spec(4, 2, 16);
        let mut session = Session::new(&cuda, spec);
        let mut plain = Session::new(&cuda, spec);
        for session in [&mut session, &mut plain] {
            cuda.reserve_positions(&mut session.cache, 0, 300).unwrap();
            cuda.reserve_positions(&mut session.cache, 1, 150).unwrap();
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
