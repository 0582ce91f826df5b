//! The state of layers: each has a separate one, a window limits its size, and its end can be cut
//! off.

use crate::common::{
    attention::{Sequence, State, attend, attend_in, check_token, new_state, spec},
    bits, device, devices, values,
};
use moexperts_core::{AttentionSpec, Error, Memory, StateSpec};
use moexperts_cpu::{Cpu, Isa};

/// Positions that a layer with a window may hold beside those it sees.
const CHUNK: usize = 512;

/// Bytes of one position of one layer.
fn position_bytes(spec: &AttentionSpec) -> usize {
    4 * spec.kv_heads * (spec.head_dim + spec.value_dim)
}

/// Reads a sequence in spans, one after the other: the values of all of them.
fn read(
    cpu: &Cpu,
    state: &mut State,
    whole: &Sequence,
    spec: &AttentionSpec,
    spans: impl IntoIterator<Item = usize>,
) -> Vec<u32> {
    let (mut start, mut out) = (0, Vec::new());
    for tokens in spans {
        let part = whole.part(start..start + tokens);
        let values = attend(cpu, state, &[(1, start, tokens)], &part, spec).unwrap();
        out.extend(bits(values.data()));
        start += tokens;
    }
    out
}

/// A layer's attention, its sinks, and what its state holds if not what the attention sees.
struct Layer {
    spec: AttentionSpec,
    sinks: Option<Vec<f32>>,
    state: StateSpec,
}

fn layers() -> Vec<Layer> {
    let layer = |[heads, kv_heads]: [usize; 2], [head_dim, value_dim]: [usize; 2], window| {
        let spec =
            AttentionSpec { value_dim, sliding_window: window, ..spec(heads, kv_heads, head_dim) };
        // Among the largest scores.
        let sinks = values(heads, 77).iter().map(|value| 8.0 * value).collect();
        Layer { spec, sinks: Some(sinks), state: spec.state() }
    };
    let plain = |layer: Layer| Layer { sinks: None, ..layer };
    let wide = |layer: Layer, window: Option<usize>| {
        let state = AttentionSpec { sliding_window: window, ..layer.spec }.state();
        Layer { state, ..layer }
    };
    vec![
        plain(layer([2, 2], [8, 8], None)),
        layer([3, 1], [12, 20], Some(5)),
        plain(layer([4, 2], [24, 16], Some(600))),
        layer([2, 1], [4, 33], None),
        plain(layer([2, 2], [8, 8], Some(1))),
        wide(layer([2, 1], [17, 3], Some(9)), Some(30)),
        wide(layer([1, 1], [5, 16], Some(700)), None),
    ]
}

#[test]
fn every_layer_attends_to_its_state() {
    const LEN: [usize; 3] = [1400, 40, 3];
    for cpu in devices() {
        let layers = layers();
        // A layer without state is between the others.
        let mut specs: Vec<StateSpec> = layers.iter().map(|layer| layer.state).collect();
        specs.insert(1, StateSpec::None);
        let state = &mut cpu.new_state(&specs, 3).unwrap();
        let index = |layer: usize| if layer == 0 { 0 } else { layer + 1 };
        let wholes: Vec<[Sequence; 3]> = layers
            .iter()
            .map(|layer| LEN.map(|len| Sequence::new(len, &layer.spec, len as u64)))
            .collect();
        let mut outs = vec![[const { Vec::new() }; 3]; layers.len()];
        for spans in [
            &[(0, 0, 1150), (2, 0, 3), (1, 0, 20)][..],
            &[(0, 1150, 1), (1, 20, 1)],
            &[(1, 21, 18), (0, 1151, 200)],
            &[(0, 1351, 10), (1, 39, 1), (0, 1361, 39)],
        ] {
            for (layer, Layer { spec, sinks, .. }) in layers.iter().enumerate() {
                let part = |&(sequence, start, tokens): &(usize, usize, usize)| {
                    wholes[layer][sequence].part(start..start + tokens)
                };
                let rows = Sequence::joined(&spans.iter().map(part).collect::<Vec<_>>());
                let attention = (spec, sinks.as_ref());
                let out = attend_in(&cpu, (state, index(layer)), spans, &rows, attention).unwrap();
                let mut values = out.data();
                for &(sequence, _, tokens) in spans {
                    let (own, rest) = values.split_at(tokens * out.cols());
                    outs[layer][sequence].extend_from_slice(own);
                    values = rest;
                }
            }
        }
        for (layer, Layer { spec, sinks, .. }) in layers.iter().enumerate() {
            for (sequence, whole) in wholes[layer].iter().enumerate() {
                let (tokens, cols) = (LEN[sequence], spec.heads * spec.value_dim);
                let out = outs[layer][sequence].clone();
                let out = moexperts_core::Tensor::from_vec(tokens, cols, out).unwrap();
                let window = spec.sliding_window.unwrap_or(usize::MAX);
                // All of the short ones, some of the long one, its ends among them.
                for token in (0..tokens).filter(|token| tokens < 50 || token % 60 == 19) {
                    let seen = (token + 1).saturating_sub(window)..token + 1;
                    let what = format!("{} layer {layer} {spec:?}", cpu.isa());
                    check_token(&out, whole, (spec, sinks.as_ref()), token, seen, &what);
                }
            }
        }
    }
}

#[test]
fn a_window_holds_what_is_seen_and_a_chunk_and_gives_the_bits_of_all() {
    const LEN: usize = 1700;
    for cpu in devices() {
        for window in [1, 2, 17, 511, 513, 800, 5000] {
            let spec = AttentionSpec { sliding_window: Some(window), ..spec(1, 1, 20) };
            let whole = Sequence::new(LEN, &spec, 1);
            let everything = AttentionSpec { sliding_window: None, ..spec }.state();
            let state = &mut cpu.new_state(&[StateSpec::None, everything], 3).unwrap();
            let expected = read(&cpu, state, &whole, &spec, [LEN]);
            assert!(cpu.state_bytes(state) >= LEN * position_bytes(&spec));
            for (reserved, spans) in [
                (0, &[LEN][..]),
                (100, &[600, 1, 1, 300, LEN - 902]),
                (usize::MAX, &[513, 511, 512, LEN - 1536]),
            ] {
                let state = &mut new_state(&cpu, &spec);
                cpu.reserve_positions(state, 1, reserved).unwrap();
                let got = read(&cpu, state, &whole, &spec, spans.iter().copied());
                assert_eq!(got, expected, "{} {window} {spans:?}", cpu.isa());
                let most = (window - 1 + CHUNK) * position_bytes(&spec);
                assert!(cpu.state_bytes(state) <= most, "{window} {reserved} {spans:?}");
            }
        }
    }
}

#[test]
fn decoding_past_a_window_takes_no_more_memory() {
    for cpu in devices() {
        let spec = AttentionSpec { sliding_window: Some(7), ..spec(2, 2, 8) };
        let whole = Sequence::new(1800, &spec, 1);
        let at_once = read(&cpu, &mut new_state(&cpu, &spec), &whole, &spec, [1800]);
        let state = &mut new_state(&cpu, &spec);
        let (mut out, mut start) = (Vec::new(), 0);
        for tokens in [10].into_iter().chain([1; 1790]) {
            let part = whole.part(start..start + tokens);
            let values = attend(&cpu, state, &[(1, start, tokens)], &part, &spec).unwrap();
            out.extend(bits(values.data()));
            start += tokens;
            assert!(cpu.state_bytes(state) <= (6 + CHUNK) * position_bytes(&spec), "{start}");
        }
        assert_eq!(out, at_once, "{}", cpu.isa());
    }
}

#[test]
fn spans_of_one_sequence_give_the_bits_of_one_span() {
    let cpu = device(Isa::Portable, 2);
    for window in [None, Some(3), Some(600)] {
        let spec = AttentionSpec { sliding_window: window, ..spec(2, 1, 8) };
        let whole = Sequence::new(1400, &spec, 1);
        let at_once = read(&cpu, &mut new_state(&cpu, &spec), &whole, &spec, [1400]);
        let spans = [(1, 0, 700), (1, 700, 1), (1, 701, 0), (1, 701, 699)];
        let out = attend(&cpu, &mut new_state(&cpu, &spec), &spans, &whole, &spec).unwrap();
        assert_eq!(bits(out.data()), at_once, "{window:?}");
    }
}

#[test]
fn a_window_can_be_cut_back_as_far_as_it_holds_what_is_seen() {
    const READ: usize = 1900;
    const AFTER: usize = 40;
    for cpu in devices() {
        for window in [1, 100] {
            let spec = AttentionSpec { sliding_window: Some(window), ..spec(2, 1, 8) };
            let (old, new) =
                (Sequence::new(READ + AFTER, &spec, 1), Sequence::new(READ + AFTER, &spec, 9));
            let filled = || {
                let state = &mut new_state(&cpu, &spec);
                read(&cpu, state, &old, &spec, [1200, 699, 1]);
                std::mem::replace(state, new_state(&cpu, &spec))
            };
            let state = &mut filled();
            let can_cut: Vec<usize> =
                (0..READ + 10).filter(|&position| cpu.can_cut(state, 1, position)).collect();
            // The start, and from somewhere on all to the end.
            let first = can_cut[1];
            assert_eq!(can_cut[0], 0);
            assert_eq!(can_cut[1..], (first..=READ).collect::<Vec<_>>());
            assert!(window == 1 || READ - first < CHUNK, "{first}");
            for start in [0, first, first + 1, READ - 2, READ] {
                let state = &mut filled();
                let span = (1, start, AFTER);
                let part = new.part(start..start + AFTER);
                let got = attend(&cpu, state, &[span], &part, &spec).unwrap();
                let mixed = Sequence::joined(&[old.part(0..start), part]);
                let fresh = &mut new_state(&cpu, &spec);
                let expected = read(&cpu, fresh, &mixed, &spec, [start + AFTER]);
                assert_eq!(bits(got.data()), expected[start * got.cols()..], "{window} {start}");
            }
            if window == 1 {
                continue;
            }
            // A refused span leaves the state as it was.
            for position in [1, first - 1] {
                let part = new.part(position..position + 1);
                let error = attend(&cpu, state, &[(1, position, 1)], &part, &spec).unwrap_err();
                let seen_from = (position + 1).saturating_sub(window);
                let held_from = first + 1 - window;
                assert_eq!(error, Error::Dropped { layer: 1, held_from, position, seen_from });
            }
            let on = |state: &mut State| {
                let part = new.part(READ..READ + 1);
                bits(attend(&cpu, state, &[(1, READ, 1)], &part, &spec).unwrap().data())
            };
            assert_eq!(on(state), on(&mut filled()), "{window}");
        }
    }
}

#[test]
fn a_batch_that_is_refused_leaves_the_state_as_it_was() {
    let cpu = device(Isa::Portable, 1);
    for window in [None, Some(3)] {
        let spec = AttentionSpec { sliding_window: window, ..spec(2, 1, 8) };
        let whole = Sequence::new(9, &spec, 1);
        let state = &mut new_state(&cpu, &spec);
        read(&cpu, state, &whole, &spec, [5]);
        let rows = whole.part(0..2);
        for spans in [[(1, 3, 1), (0, 1, 1)], [(1, 3, 1), (3, 0, 1)], [(1, 5, 1), (1, 7, 1)]] {
            attend(&cpu, state, &spans, &rows, &spec).unwrap_err();
            assert!(cpu.can_cut(state, 1, 5) && !cpu.can_cut(state, 1, 6), "{spans:?}");
        }
        let overlapping = attend(&cpu, state, &[(1, 5, 1), (1, 5, 1)], &rows, &spec);
        assert!(matches!(overlapping, Err(Error::Value { .. })), "{overlapping:?}");
        let got = attend(&cpu, state, &[(1, 5, 4)], &whole.part(5..9), &spec).unwrap();
        let expected = read(&cpu, &mut new_state(&cpu, &spec), &whole, &spec, [9]);
        assert_eq!(bits(got.data()), expected[5 * got.cols()..]);
    }
}

#[test]
fn a_state_can_go_on_where_all_its_layers_can() {
    let cpu = device(Isa::Portable, 1);
    let window = AttentionSpec { sliding_window: Some(4), ..spec(2, 1, 8) };
    let all = spec(2, 1, 8);
    let state = &mut cpu.new_state(&[all.state(), StateSpec::None, window.state()], 2).unwrap();
    assert_eq!(cpu.state_bytes(state), 0);
    let whole = Sequence::new(1000, &all, 1);
    let can_cut = |state: &State, sequence: usize| -> Vec<usize> {
        [0, 1, 500, 999, 1000, 1001]
            .into_iter()
            .filter(|&position| cpu.can_cut(state, sequence, position))
            .collect()
    };
    for sequence in 0..2 {
        assert_eq!(can_cut(state, sequence), [0], "nothing was read");
    }
    let span = [(1, 0, 1000)];
    attend_in(&cpu, (state, 0), &span, &whole, (&all, None)).unwrap();
    assert_eq!(can_cut(state, 1), [0], "one of the layers has read nothing");
    attend_in(&cpu, (state, 2), &span, &whole, (&window, None)).unwrap();
    assert_eq!(can_cut(state, 0), [0]);
    assert_eq!(can_cut(state, 1), [0, 999, 1000]);
    assert!(!cpu.can_cut(state, 2, 0), "a sequence that does not exist");
    let nothing = &cpu.new_state(&[StateSpec::None], 1).unwrap();
    assert!(cpu.can_cut(nothing, 0, 7));
    assert_eq!(cpu.state_bytes(nothing), 0);
}
