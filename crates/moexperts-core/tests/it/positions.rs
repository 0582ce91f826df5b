//! Which tokens a layer reads at once, and where it can go on.

use moexperts_core::{
    Batch, Span, checks,
    positions::{Held, RoundLimits, Rounds, seen_from},
};
use proptest::prelude::*;

const ALIGN: usize = 4;

/// Spans of up to three sequences; several of one follow one another.
fn batch() -> impl Strategy<Value = (Batch, [usize; 3])> {
    let starts = prop::array::uniform3(0_usize..60);
    let spans = prop::collection::vec((0_usize..3, 0_usize..40), 0..8);
    (starts, spans).prop_map(|(starts, spans)| {
        let mut next = starts;
        let mut batch = Batch::default();
        for (sequence, tokens) in spans {
            batch.push(Span { sequence, start: next[sequence], tokens });
            next[sequence] += tokens;
        }
        (batch, starts)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_token_is_read_once_in_order_and_beside_all_it_sees(
        (batch, starts) in batch(),
        window in prop::option::of(1_usize..20),
        spare in 0_usize..30,
    ) {
        let capacity = window.map_or(usize::MAX, |window| window - 1 + ALIGN + spare);
        let limits = RoundLimits { window, align: ALIGN };
        let (mut rounds, mut next) = (Rounds::default(), starts);
        let mut rows = vec![false; batch.tokens()];
        rounds.begin(&batch);
        for round in 0.. {
            prop_assert!(round <= batch.tokens(), "a round reads something");
            let parts = rounds.next(&batch, limits, |_| capacity);
            if parts.is_empty() {
                break;
            }
            let before = next;
            for part in parts {
                let sequence = part.span.sequence;
                prop_assert_eq!(part.position(), next[sequence]);
                prop_assert_eq!(part.seen_from, seen_from(before[sequence], window));
                next[sequence] += part.tokens;
                prop_assert!(next[sequence] - part.seen_from <= capacity);
                for row in &mut rows[part.row..part.row + part.tokens] {
                    prop_assert!(!*row, "a row is read twice");
                    *row = true;
                }
            }
        }
        prop_assert!(rows.iter().all(|&read| read), "a row is not read");
    }

    #[test]
    fn spans_one_after_another_are_accepted_and_a_gap_is_refused(
        (batch, starts) in batch(),
        window in prop::option::of(1_usize..20),
        gap in 1_usize..5,
    ) {
        let held = |sequence: usize| Held { from: 0, to: starts[sequence] };
        prop_assert_eq!(checks::spans(&batch, 0, window, 3, held), Ok(()));
        for (index, span) in batch.spans().iter().enumerate() {
            let mut spans = batch.spans().to_vec();
            spans[index].start = span.start + gap;
            prop_assert!(checks::spans(&Batch::new(spans), 0, window, 3, held).is_err());
        }
        let beyond = |sequence| vec![Span { sequence, start: 0, tokens: 1 }];
        prop_assert!(checks::spans(&Batch::new(beyond(3)), 0, window, 3, held).is_err());
    }

    #[test]
    fn a_cut_forgets_what_follows_and_keeps_what_is_seen(
        [from, len, position] in prop::array::uniform3(0_usize..50),
        window in prop::option::of(1_usize..20),
    ) {
        let held = Held { from, to: from + len };
        let seen = seen_from(position, window);
        prop_assert!(seen <= position);
        let mut cut = held;
        cut.cut(position);
        prop_assert!(cut.from <= cut.to && cut.to <= position.min(held.to));
        if held.can_cut(position, window) {
            prop_assert_eq!(cut.to, position);
            prop_assert!(seen == position || cut.from <= seen);
        }
    }

    #[test]
    fn any_positions_are_answered(
        [start, held] in any::<[usize; 2]>(),
        window in prop::option::of(any::<usize>()),
    ) {
        prop_assert!(seen_from(start, window) <= start);
        let held = Held { from: held / 2, to: held };
        let batch = Batch::new(vec![Span { sequence: 0, start, tokens: 1 }]);
        let _ = checks::spans(&batch, 0, window, 1, |_| held);
    }
}
