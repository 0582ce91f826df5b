//! Attention of [`Cpu`] against plain f64 loops, and invariance of its bits.

use crate::common::{
    attention::{Sequence, attend, attend_in, check, check_whole, new_state, spec},
    bits, device, devices, devices_by_threads,
};
use moexperts_core::{AttentionSpec, Error, Memory, Operations, Tensor, made};
use moexperts_cpu::{Cpu, Isa};

#[test]
fn attention_is_the_softmax_of_the_scores_times_the_values() {
    for cpu in devices() {
        for (heads, kv_heads, head_dim) in [(1, 1, 8), (4, 4, 5), (6, 2, 16), (4, 1, 33)] {
            for sliding_window in [None, Some(1), Some(3), Some(8), Some(9), Some(100)] {
                let spec = AttentionSpec { sliding_window, ..spec(heads, kv_heads, head_dim) };
                for tokens in [1, 2, 7, 8, 9, 25] {
                    let whole = Sequence::new(tokens, &spec, tokens as u64);
                    let state = &mut new_state(&cpu, &spec);
                    let out = attend(&cpu, state, &[(0, 0, tokens)], &whole, &spec).unwrap();
                    check_whole(&out, &whole, (&spec, None), &format!("{} {spec:?}", cpu.isa()));
                }
            }
        }
    }
}

#[test]
fn full_attention_sees_a_whole_segment_and_nothing_else() {
    for cpu in devices() {
        // Blocks of queries and of keys, whole and not; heads that are no whole vectors.
        let shapes = [
            (1, 1, [8, 8], &[1, 3, 0, 2][..]),
            (4, 4, [12, 12], &[17, 16]),
            (6, 2, [20, 20], &[33]),
            (1, 1, [4, 4], &[130, 1]),
            (2, 1, [8, 8], &[600]),
            (6, 2, [20, 7], &[33, 300]),
            (4, 2, [3, 18], &[1, 40]),
        ];
        for (heads, kv_heads, [head_dim, value_dim], segments) in shapes {
            let spec = AttentionSpec { value_dim, ..spec(heads, kv_heads, head_dim) };
            let tokens: usize = segments.iter().sum();
            let rows = Sequence::new(tokens, &spec, tokens as u64);
            let qkv = [&rows.q, &rows.k, &rows.v];
            let out = made(|out| cpu.full_attention(qkv, segments, &spec, out)).unwrap();
            let segment = |token: usize| {
                let mut start = 0;
                let len = segments.iter().find(|&&len| {
                    start += len;
                    token < start
                });
                start - len.unwrap()..start
            };
            check(&out, &rows, (&spec, None), segment, &format!("{} {segments:?}", cpu.isa()));
        }
    }
}

#[test]
fn full_attention_of_a_segment_does_not_depend_on_the_others_or_on_the_threads() {
    let spec = spec(3, 3, 12);
    let [a, b] = [(140, 1), (20, 2)].map(|(tokens, seed)| Sequence::new(tokens, &spec, seed));
    let both = Sequence::joined(&[a.part(0..140), b.part(0..20)]);
    for devices in devices_by_threads() {
        let run = |cpu: &Cpu, rows: &Sequence, segments: &[usize]| {
            let qkv = [&rows.q, &rows.k, &rows.v];
            bits(made(|out| cpu.full_attention(qkv, segments, &spec, out)).unwrap().data())
        };
        let alone = [run(&devices[0], &a, &[140]), run(&devices[0], &b, &[20])].concat();
        for cpu in &devices {
            assert_eq!(run(cpu, &both, &[140, 20]), alone, "{}", cpu.isa());
        }
    }
}

#[test]
fn full_attention_of_wrong_shapes_is_an_error() {
    let (cpu, spec) = (device(Isa::Portable, 1), spec(4, 2, 8));
    let rows = Sequence::new(3, &spec, 1);
    let refused = |segments: &[usize], spec: AttentionSpec| {
        let qkv = [&rows.q, &rows.k, &rows.v];
        let result = made(|out| cpu.full_attention(qkv, segments, &spec, out));
        matches!(result, Err(Error::Shape { .. } | Error::Value { .. }))
    };
    assert!(!refused(&[1, 2], spec));
    assert!(refused(&[1, 1], spec));
    assert!(refused(&[4], spec));
    assert!(refused(&[3], AttentionSpec { heads: 3, ..spec }));
    assert!(refused(&[3], AttentionSpec { kv_heads: 0, ..spec }));
    assert!(refused(&[3], AttentionSpec { head_dim: 4, ..spec }));
    assert!(refused(&[3], AttentionSpec { value_dim: 4, ..spec }));
    assert!(refused(&[3], AttentionSpec { sliding_window: Some(2), ..spec }));
    let empty = Tensor::zeros(3, 0);
    for none in [
        AttentionSpec { head_dim: 0, value_dim: 0, ..spec },
        AttentionSpec { kv_heads: 0, heads: 0, ..spec },
    ] {
        assert!(made(|out| cpu.full_attention([&empty; 3], &[3], &none, out)).is_err());
    }
}

#[test]
fn a_sequence_in_steps_gives_the_bits_of_all_at_once() {
    for cpu in devices() {
        for sliding_window in [None, Some(4), Some(11)] {
            let spec = AttentionSpec { sliding_window, ..spec(6, 2, 12) };
            let whole = Sequence::new(23, &spec, 1);
            let at_once =
                attend(&cpu, &mut new_state(&cpu, &spec), &[(1, 0, 23)], &whole, &spec).unwrap();
            for steps in [&[1; 23][..], &[10, 1, 1, 8, 3], &[22, 1], &[9, 0, 14]] {
                let state = &mut new_state(&cpu, &spec);
                let (mut start, mut out) = (0, Vec::new());
                for &tokens in steps {
                    let rows = whole.part(start..start + tokens);
                    let step = attend(&cpu, state, &[(1, start, tokens)], &rows, &spec).unwrap();
                    out.extend(bits(step.data()));
                    start += tokens;
                }
                assert_eq!(out, bits(at_once.data()), "{} {sliding_window:?}", cpu.isa());
            }
        }
    }
}

#[test]
fn a_batch_gives_the_bits_of_each_sequence_alone() {
    for cpu in devices() {
        let spec = AttentionSpec { sliding_window: Some(10), ..spec(4, 2, 16) };
        let sequences = [(2, 13), (0, 1), (1, 8)];
        let wholes = sequences.map(|(seed, tokens)| Sequence::new(tokens + 2, &spec, seed as u64));
        let together = &mut new_state(&cpu, &spec);
        let mut alone = sequences.map(|_| new_state(&cpu, &spec));
        // A prompt for each, then two tokens at once.
        for prefill in [true, false] {
            let rows = |index: usize| {
                let prompt: usize = sequences[index].1;
                if prefill { 0..prompt } else { prompt..prompt + 2 }
            };
            let parts: Vec<Sequence> =
                (0..3).map(|index| wholes[index].part(rows(index))).collect();
            let spans: Vec<(usize, usize, usize)> = (0..3)
                .map(|index| (sequences[index].0, rows(index).start, rows(index).len()))
                .collect();
            let batch = attend(&cpu, together, &spans, &Sequence::joined(&parts), &spec).unwrap();
            let mut expected = Vec::new();
            for index in 0..3 {
                let span = &spans[index..index + 1];
                let out = attend(&cpu, &mut alone[index], span, &parts[index], &spec).unwrap();
                expected.extend(bits(out.data()));
            }
            assert_eq!(bits(batch.data()), expected, "{}", cpu.isa());
        }
    }
}

#[test]
fn a_span_forgets_what_was_read_from_its_start_on() {
    for cpu in devices() {
        let spec = spec(2, 1, 8);
        let (old, new) = (Sequence::new(15, &spec, 1), Sequence::new(15, &spec, 9));
        let state = &mut new_state(&cpu, &spec);
        attend(&cpu, state, &[(0, 0, 15)], &old, &spec).unwrap();
        // Six old tokens, then four others; what stood at 10 .. 15 is gone.
        let out = attend(&cpu, state, &[(0, 6, 4)], &new.part(6..10), &spec).unwrap();
        let mixed = Sequence::joined(&[old.part(0..6), new.part(6..10)]);
        let fresh =
            attend(&cpu, &mut new_state(&cpu, &spec), &[(0, 0, 10)], &mixed, &spec).unwrap();
        assert_eq!(bits(out.data()), bits(&fresh.data()[6 * fresh.cols()..]));
        let beyond = attend(&cpu, state, &[(0, 11, 1)], &new.part(11..12), &spec);
        assert_eq!(
            beyond.unwrap_err(),
            Error::OutOfRange { what: "position", index: 11, limit: 11 }
        );
    }
}

#[test]
fn reserved_positions_change_no_bit_and_do_not_limit_them() {
    for cpu in devices() {
        let spec = spec(4, 2, 12);
        let whole = Sequence::new(30, &spec, 1);
        let run = |reserved: [usize; 2]| {
            let state = &mut new_state(&cpu, &spec);
            let mut out = Vec::new();
            for (step, positions) in
                [0..7, 7..8, 8..30].into_iter().zip([reserved[0], reserved[1], 0])
            {
                cpu.reserve_positions(state, 1, positions).unwrap();
                let span = (1, step.start, step.len());
                let step = attend(&cpu, state, &[span], &whole.part(step), &spec).unwrap();
                out.extend(bits(step.data()));
            }
            out
        };
        let plain = run([0, 0]);
        for reserved in [[30, 0], [5, 20], [0, 3], [100, 100]] {
            assert_eq!(run(reserved), plain, "{} {reserved:?}", cpu.isa());
        }
        let refused = cpu.reserve_positions(&mut new_state(&cpu, &spec), 3, 8);
        let error = Error::OutOfRange { what: "sequence", index: 3, limit: 3 };
        assert_eq!(refused.unwrap_err(), error);
        for positions in [usize::MAX, usize::MAX / 12] {
            let refused = cpu.reserve_positions(&mut new_state(&cpu, &spec), 0, positions);
            assert!(matches!(refused, Err(Error::Device { .. })), "{refused:?}");
        }
    }
}

#[test]
fn layers_and_sequences_do_not_see_each_other() {
    let (cpu, spec) = (device(Isa::Portable, 1), spec(2, 1, 8));
    let state = &mut cpu.new_state(&[spec.state(); 2], 3).unwrap();
    let [a, b] = [1, 9].map(|seed| Sequence::new(5, &spec, seed));
    attend(&cpu, state, &[(0, 0, 5)], &a, &spec).unwrap();
    let span = &[(0, 0, 5)];
    let other_layer = attend_in(&cpu, (state, 0), span, &b, (&spec, None)).unwrap();
    let other_sequence = attend(&cpu, state, &[(2, 0, 5)], &b, &spec).unwrap();
    assert_eq!(bits(other_layer.data()), bits(other_sequence.data()));
    check_whole(&other_layer, &b, (&spec, None), "another layer");
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for devices in devices_by_threads() {
        let spec = spec(6, 3, 16);
        let whole = Sequence::new(40, &spec, 1);
        let outputs = devices.map(|cpu| {
            let state = &mut new_state(&cpu, &spec);
            bits(attend(&cpu, state, &[(0, 0, 40)], &whole, &spec).unwrap().data())
        });
        assert_eq!(outputs[0], outputs[1]);
        assert_eq!(outputs[0], outputs[2]);
    }
}

#[test]
fn a_batch_that_does_not_fit_the_state_is_an_error() {
    let (cpu, spec) = (device(Isa::Portable, 1), spec(4, 2, 8));
    let rows = Sequence::new(3, &spec, 1);
    let try_spans = |spans: &[(usize, usize, usize)]| {
        attend(&cpu, &mut new_state(&cpu, &spec), spans, &rows, &spec)
    };
    assert!(try_spans(&[(0, 0, 3)]).is_ok());
    let out_of_range = |result| matches!(result, Err(Error::OutOfRange { .. }));
    assert!(out_of_range(try_spans(&[(3, 0, 3)])));
    assert!(out_of_range(try_spans(&[(0, 1, 3)])));
    // Far enough for `start * width` to overflow.
    assert!(out_of_range(try_spans(&[(0, usize::MAX / 8, 3)])));
    assert!(out_of_range(try_spans(&[(0, 1 << 60, 3)])));
    let is_shape = |result| matches!(result, Err(Error::Shape { .. }));
    assert!(is_shape(try_spans(&[(0, 0, 2)])));
    let is_value = |result| matches!(result, Err(Error::Value { .. }));
    assert!(is_value(try_spans(&[(0, 0, 2), (0, 1, 1)])));
    let other = |heads, kv_heads, head_dim| {
        let other = AttentionSpec { heads, kv_heads, head_dim, value_dim: head_dim, ..spec };
        attend(&cpu, &mut new_state(&cpu, &spec), &[(0, 0, 3)], &rows, &other)
    };
    assert!(is_shape(other(3, 2, 8)));
    assert!(is_value(other(4, 1, 8)));
    assert!(is_value(other(2, 1, 16)));
    let in_layer = |layer, sinks: Option<usize>| {
        let (state, sinks) = (&mut new_state(&cpu, &spec), sinks.map(|sinks| vec![0.0; sinks]));
        attend_in(&cpu, (state, layer), &[(0, 0, 3)], &rows, (&spec, sinks.as_ref()))
    };
    assert!(in_layer(1, Some(4)).is_ok());
    assert_eq!(in_layer(1, Some(2)).unwrap_err(), Error::count("sinks", 4, 2));
    assert!(is_value(in_layer(0, None)), "a layer that keeps nothing");
    let error = Error::OutOfRange { what: "layer", index: 2, limit: 2 };
    assert_eq!(in_layer(2, None).unwrap_err(), error);
    let none = AttentionSpec { sliding_window: Some(0), ..spec };
    assert!(matches!(cpu.new_state(&[none.state()], 1), Err(Error::Value { .. })));
}
