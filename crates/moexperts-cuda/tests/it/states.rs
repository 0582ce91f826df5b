//! The states of layers on a GPU: each layer has a separate one, a layer with a window a ring of slots,
//! and a state can be cut where it holds what is seen.

use crate::common::{
    Outcome, Walk,
    attention::{AttentionLayer, Session, Spans, spec},
    bits, check, devices, read,
};
use moexperts_core::{AttentionSpec, Device, Error, Execution, Memory, StateSpec};
use moexperts_cpu::{Cpu, CpuOptions};
use moexperts_cuda::{CudaTensor, Recording};

/// Slots of a ring beside those that a token sees, at least.
const CHUNK: usize = 512;

fn windowed(window: usize, spec: AttentionSpec) -> AttentionLayer {
    AttentionLayer::new(AttentionSpec { sliding_window: Some(window), ..spec })
}

/// Bytes that a layer with a window takes at most.
fn most_bytes(layer: &AttentionLayer) -> usize {
    let AttentionSpec { kv_heads, head_dim, value_dim, sliding_window, .. } = layer.spec;
    let ring = (sliding_window.unwrap() - 1 + CHUNK).next_power_of_two();
    4 * ring * kv_heads * (head_dim.next_multiple_of(4) + value_dim.next_multiple_of(4))
}

#[test]
fn every_layer_attends_to_its_own_state() {
    let expected = walk(&Cpu::new(CpuOptions::default()).unwrap());
    for (name, cuda) in devices() {
        check(&name, &walk(&cuda), &expected);
    }
}

fn walk<D: Device>(device: &D) -> Vec<Outcome> {
    let mut walk = Walk::new(device);
    let dims = |heads, kv_heads, head_dim, value_dim| AttentionSpec {
        value_dim,
        ..spec(heads, kv_heads, head_dim)
    };
    let layers = [
        AttentionLayer::new(dims(2, 2, 8, 8)),
        AttentionLayer { state: StateSpec::None, ..AttentionLayer::new(dims(1, 1, 1, 1)) },
        windowed(5, dims(3, 1, 12, 20)).with_sinks(),
        AttentionLayer::new(dims(2, 2, 8, 8)).with_sinks(),
        windowed(5, dims(3, 1, 12, 20)),
        // The state of the layer before, with other queries.
        windowed(5, dims(1, 1, 12, 20)),
        AttentionLayer {
            state: windowed(30, dims(2, 1, 7, 4)).state,
            ..windowed(9, dims(2, 1, 7, 4))
        },
        windowed(1, dims(2, 2, 4, 8)),
    ];
    let mut session = Session::of(device, &layers);
    for spans in [
        &[(0, 0, 70), (2, 0, 3), (1, 0, 20)][..],
        &[(0, 70, 1), (1, 20, 1)],
        &[(1, 21, 18), (0, 71, 20)],
        &[(0, 91, 3), (1, 39, 1), (0, 94, 39)],
        // Other positions in place of those from 80 on.
        &[(0, 80, 2)],
    ] {
        let values = session.values(spans);
        walk.push(&format!("{spans:?}"), 1e-5, values);
    }
    // Past the end of the ring; layers of the CPU have no rings.
    let layers = [windowed(9, dims(1, 1, 4, 4)).with_sinks(), windowed(600, dims(1, 1, 4, 8))];
    let mut session = Session::of(device, &layers);
    for spans in [&[(0, 0, 2100), (1, 0, 5)][..], &[(1, 5, 1), (0, 2100, 1)], &[(0, 2101, 30)]] {
        let values = session.values(spans);
        walk.push(&format!("{spans:?}"), 1e-5, values);
    }
    // Devices hold different positions, but for the ends.
    let can_cut = [0, 2131, 2132].map(|position| f32::from(u8::from(session.can_cut(0, position))));
    assert_eq!(can_cut, [1.0, 1.0, 0.0]);
    walk.outcomes
}

#[test]
fn a_ring_gives_the_bits_of_all_positions_and_takes_no_more_memory() {
    for (name, cuda) in devices() {
        for window in [1, 2, 100] {
            let layer = windowed(window, spec(2, 1, 4));
            for (reserved, spans) in [
                // In several rounds; past the ring in steps; after memory for all or for some.
                (0, &[(0, 1400), (1400, 1), (1401, 3), (1404, 400)][..]),
                (100, &[(0, 60), (60, 700), (760, 500), (1260, 1)]),
                (usize::MAX, &[(0, 513), (513, 600), (1113, 1)]),
            ] {
                let mut session = Session::of(&cuda, &[layer]);
                let mut all = Session::of(&cuda, &[layer.of_all()]);
                cuda.reserve_positions(&mut session.state, 1, reserved).unwrap();
                for &(start, tokens) in spans {
                    let what = format!("{name} {window} {reserved} {start} {tokens}");
                    let span = [(1, start, tokens)];
                    assert_eq!(session.bits(&span), all.bits(&span), "{what}");
                    assert!(session.bytes() <= most_bytes(&layer), "{what}");
                }
                assert!(all.bytes() > most_bytes(&layer), "{name} {window}");
            }
        }
    }
}

#[test]
fn spans_of_one_sequence_share_a_ring() {
    for (name, cuda) in devices() {
        let layer = windowed(100, spec(2, 1, 4));
        let mut session = Session::of(&cuda, &[layer]);
        let mut all = Session::of(&cuda, &[layer.of_all()]);
        let spans: &Spans =
            &[(1, 0, 1000), (1, 1000, 1), (0, 0, 3), (1, 1001, 0), (1, 1001, 300), (1, 1301, 1)];
        assert_eq!(session.bits(spans), all.bits(spans), "{name}");
        let spans = &[(1, 1302, 1), (1, 1303, 2)];
        assert_eq!(session.bits(spans), all.bits(spans), "{name}");
    }
}

#[test]
fn a_ring_can_be_cut_back_as_far_as_it_holds_what_is_seen() {
    const WINDOW: usize = 100;
    const RING: usize = 1024;
    for (name, cuda) in devices() {
        let layer = windowed(WINDOW, spec(2, 1, 4));
        let filled = |end: usize| {
            let mut session = Session::of(&cuda, &[layer]);
            session.values(&[(0, 0, end)]).unwrap();
            session
        };
        let mut session = filled(1500);
        let can_cut: Vec<usize> =
            (0..1600).filter(|&position| session.can_cut(0, position)).collect();
        let first = 1500 - RING + WINDOW - 1;
        let expected: Vec<usize> = [0].into_iter().chain(first..=1500).collect();
        assert_eq!(can_cut, expected, "{name}");
        assert!(!session.can_cut(3, 0), "a sequence that does not exist");
        for position in [1, first - 1] {
            let error = session.values(&[(0, position, 1)]).unwrap_err();
            let (held_from, seen_from) = (1500 - RING, (position + 1).saturating_sub(WINDOW));
            assert_eq!(error, Error::Dropped { layer: 0, held_from, position, seen_from });
        }
        // It was refused, and the state is as it was.
        assert_eq!(session.bits(&[(0, 1500, 1)]), filled(1500).bits(&[(0, 1500, 1)]));
        // The last token overwrote one more position.
        assert!(!session.can_cut(0, first) && session.can_cut(0, first + 1));
        for start in [first + 1, 1490] {
            // The tokens of a session follow from their positions: those after a cut are the same.
            assert_eq!(session.bits(&[(0, start, 2)]), filled(start).bits(&[(0, start, 2)]));
            assert!(!session.can_cut(0, start + 3));
            session = filled(1501);
        }
        assert_eq!(session.bits(&[(0, 0, 40)]), filled(0).bits(&[(0, 0, 40)]));
        assert!((0..=40).all(|position| session.can_cut(0, position)));
    }
}

#[test]
fn memory_grows_with_what_each_group_reads() {
    for (_, cuda) in devices() {
        let layers = [
            AttentionLayer::new(spec(2, 1, 8)),
            windowed(3, spec(2, 1, 8)),
            AttentionLayer { state: StateSpec::None, ..AttentionLayer::new(spec(2, 1, 8)) },
            windowed(3, spec(2, 1, 8)),
        ];
        let mut session = Session::of(&cuda, &layers);
        assert_eq!(session.bytes(), 0);
        session.values(&[(0, 0, 10)]).unwrap();
        let position = 2 * 4 * 8;
        assert_eq!(session.bytes(), 3 * 64 * position);
        cuda.reserve_positions(&mut session.state, 1, 5000).unwrap();
        let reserved = (5056 + 2 * 1024) * position;
        assert_eq!(session.bytes(), 3 * 64 * position + reserved);
    }
}

/// Layers with a window and without one alternate, past the end of the ring.
#[test]
fn the_steps_of_a_decode_past_a_ring_are_launches_of_one_graph() {
    for (name, cuda) in devices() {
        let layers = [
            windowed(3, spec(2, 1, 4)).with_sinks(),
            AttentionLayer::new(spec(2, 1, 4)),
            windowed(3, spec(2, 1, 4)),
            AttentionLayer::new(spec(4, 2, 4)),
        ];
        let mut session = Session::of(&cuda, &layers);
        let mut plain = Session::of(&cuda, &layers);
        for session in [&mut session, &mut plain] {
            cuda.reserve_positions(&mut session.state, 0, 1100).unwrap();
            session.values(&[(0, 0, 1018)]).unwrap();
            // The buffers beside the state grow.
            session.values(&[(0, 1018, 1)]).unwrap();
        }
        let mut recording = Recording::default();
        let mut outs: Vec<CudaTensor> = layers.iter().map(|_| CudaTensor::default()).collect();
        let bytes = session.bytes();
        for position in 1019..1029 {
            let spans = [(0, position, 1)];
            let got: Vec<f32> = cuda.enter_plan(Some(&mut recording), || {
                for (layer, out) in outs.iter_mut().enumerate() {
                    session.attend(layer, &spans, out).unwrap();
                }
                outs.iter().flat_map(|out| read(&cuda, out)).collect()
            });
            assert_eq!(bits(&got), plain.bits(&spans), "{name} {position}");
        }
        assert_eq!(recording.graph_launches(), 8, "{name}");
        assert_eq!(session.bytes(), bytes, "{name}");
    }
}
