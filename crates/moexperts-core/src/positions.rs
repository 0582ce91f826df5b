//! The positions of a sequence that a layer of attention holds, and those it reads at once. Every
//! device uses this, so that all of them drop and refuse the same.
//!
//! Attention with a sliding window of W tokens never looks further back than W - 1 positions, so a
//! layer need not hold more: [`Held`] are the positions it holds, [`Rounds`] the order in which a
//! batch is read where its tokens and those they see do not fit at once.

use crate::{
    device::batch::{Batch, Span},
    error::{Error, Result},
    shapes::{indices, value_is},
};

/// The first position that a token at `position` sees through a sliding window of at least 1.
pub fn seen_from(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| position.saturating_sub(window.saturating_sub(1)))
}

/// The positions `from .. to` of a sequence that a layer holds; earlier ones were dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// The first.
    pub from: usize,
    /// The first that was not read yet: the length of the sequence.
    pub to: usize,
}

impl Held {
    /// Whether a forward may go on at `position` and forget everything from there on: whether all
    /// earlier tokens that a token there sees are held.
    pub fn can_cut(self, position: usize, window: Option<usize>) -> bool {
        let seen_from = seen_from(position, window);
        position <= self.to && (seen_from >= self.from || seen_from == position)
    }

    /// Forgets the positions from `position` on.
    pub fn cut(&mut self, position: usize) {
        self.to = self.to.min(position);
        self.from = self.from.min(position);
    }
}

/// Tokens of a span that a layer reads at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The whole span.
    pub span: Span,
    /// Tokens of the span before these.
    pub first: usize,
    /// Number of these.
    pub tokens: usize,
    /// Row of the first of them in the batch.
    pub row: usize,
    /// The first position that is seen by these, or by tokens of the same sequence and round.
    pub seen_from: usize,
}

impl Part {
    /// Position of the first of the tokens.
    pub fn position(&self) -> usize {
        self.span.start + self.first
    }
}

/// The limits of the tokens that a layer reads at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundLimits {
    /// Tokens that a token sees at most, itself among them.
    pub window: Option<usize>,
    /// If a span is cut, all its parts but the last have a multiple of this many tokens.
    pub align: usize,
}

/// The rounds in which a layer reads a batch: in each, as many tokens as it can hold together with
/// all that they see. One round, unless a window limits the capacity.
///
/// The buffers are kept from batch to batch.
#[derive(Debug, Default)]
pub struct Rounds {
    /// Tokens that were read of each span.
    read: Vec<usize>,
    parts: Vec<Part>,
}

impl Rounds {
    /// Begins a batch.
    pub fn begin(&mut self, batch: &Batch) {
        self.read.clear();
        self.read.resize(batch.spans().len(), 0);
    }

    /// The parts of the next round, in the order of the spans; none when all is read. `capacity`
    /// says how many positions of a sequence the layer can hold: at least
    /// `window - 1 + align`, or all of the sequence.
    ///
    /// The spans of one sequence follow one another, as
    /// [`checks::spans`](crate::checks::spans) found.
    pub fn next(
        &mut self,
        batch: &Batch,
        RoundLimits { window, align }: RoundLimits,
        capacity: impl Fn(usize) -> usize,
    ) -> &[Part] {
        let Self { read, parts } = self;
        let (spans, repeats) = (batch.spans(), batch.may_repeat_sequences());
        parts.clear();
        for (index, (span, rows)) in batch.rows().enumerate() {
            let (first, left) = (read[index], span.tokens - read[index]);
            let waits = || {
                let mut earlier = spans[..index].iter().zip(&*read);
                earlier.any(|(other, &read)| other.sequence == span.sequence && read < other.tokens)
            };
            if left == 0 || repeats && waits() {
                continue;
            }
            let position = span.start + first;
            let beside = repeats
                .then(|| parts.iter().find(|part| part.span.sequence == span.sequence))
                .flatten();
            let seen_from = beside.map_or(seen_from(position, window), |part| part.seen_from);
            let free = capacity(span.sequence).saturating_sub(position - seen_from);
            let tokens = if left <= free { left } else { free / align * align };
            debug_assert!(tokens > 0 || beside.is_some(), "a layer can hold {align} tokens");
            if tokens > 0 {
                read[index] += tokens;
                parts.push(Part { span, first, tokens, row: rows.start + first, seen_from });
            }
        }
        parts
    }
}

/// Whether a layer can read a batch: each span begins where the layer, which has some sequences and
/// holds `held` of each, can go on, or where the span before it in its sequence ends.
///
/// # Errors
/// [`Error::OutOfRange`], [`Error::Dropped`]; [`Error::Value`] if spans overlap.
pub fn check_spans(
    batch: &Batch,
    layer: usize,
    window: Option<usize>,
    sequences: usize,
    held: impl Fn(usize) -> Held,
) -> Result<()> {
    let (spans, repeats) = (batch.spans(), batch.may_repeat_sequences());
    for (index, span) in spans.iter().enumerate() {
        let (sequence, start) = (span.sequence, span.start);
        indices("sequence", [sequence], sequences)?;
        let earlier = || spans[..index].iter().rfind(|other| other.sequence == sequence);
        if let Some(earlier) = repeats.then(earlier).flatten() {
            let end = earlier.start + earlier.tokens;
            check_position(start, end)?;
            value_is(start == end, format!("start of a span of sequence {sequence}"), || {
                [format!("{end}, the end of the span before it"), start.to_string()]
            })?;
            continue;
        }
        let held = held(sequence);
        check_position(start, held.to)?;
        if !held.can_cut(start, window) {
            let seen_from = seen_from(start, window);
            return Err(Error::Dropped { layer, held_from: held.from, position: start, seen_from });
        }
    }
    Ok(())
}

/// Whether a span can begin where a layer holds that many positions of its sequence.
///
/// # Errors
/// [`Error::OutOfRange`].
pub fn check_position(start: usize, held: usize) -> Result<()> {
    indices("position", [start], held.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIGN: usize = 4;

    /// (sequence, position, tokens, row, seen_from) of the parts of each round.
    type Parts = Vec<Vec<(usize, usize, usize, usize, usize)>>;

    fn rounds(spans: &[(usize, usize, usize)], window: Option<usize>, capacity: usize) -> Parts {
        let span = |&(sequence, start, tokens)| Span { sequence, start, tokens };
        let batch = Batch::new(spans.iter().map(span).collect());
        let mut rounds = Rounds::default();
        // What an earlier batch left does not matter.
        rounds.begin(&Batch::new(vec![Span { sequence: 9, start: 9, tokens: 9 }; 9]));
        rounds.begin(&batch);
        let mut all = Vec::new();
        loop {
            let limits = RoundLimits { window, align: ALIGN };
            let parts = rounds.next(&batch, limits, |_| capacity);
            if parts.is_empty() {
                return all;
            }
            let part = |part: &Part| {
                (part.span.sequence, part.position(), part.tokens, part.row, part.seen_from)
            };
            all.push(parts.iter().map(part).collect());
        }
    }

    #[test]
    fn what_fits_is_read_at_once() {
        assert_eq!(rounds(&[], None, usize::MAX), Parts::new());
        let spans = [(1, 5, 3), (0, 0, 0), (1, 8, 100)];
        assert_eq!(rounds(&spans, None, usize::MAX), [[(1, 5, 3, 0, 0), (1, 8, 100, 3, 0)]]);
        assert_eq!(rounds(&[(0, 0, 14)], Some(3), 14), [[(0, 0, 14, 0, 0)]]);
    }

    #[test]
    fn a_round_takes_as_many_aligned_tokens_as_fit_beside_what_they_see() {
        assert_eq!(
            rounds(&[(0, 0, 15), (1, 20, 9)], Some(3), 10),
            [vec![(0, 0, 8, 0, 0), (1, 20, 8, 15, 18)], vec![(0, 8, 7, 8, 6), (1, 28, 1, 23, 26)],]
        );
    }

    #[test]
    fn a_span_waits_for_those_before_it_in_its_sequence() {
        assert_eq!(
            rounds(&[(0, 7, 9), (0, 16, 2), (1, 0, 1), (0, 18, 1)], Some(3), 10),
            [
                vec![(0, 7, 8, 0, 5), (1, 0, 1, 11, 0)],
                vec![(0, 15, 1, 8, 13), (0, 16, 2, 9, 13), (0, 18, 1, 12, 13)],
            ]
        );
        // The second fits in part beside the first, but for the part to be aligned; the third too
        // then waits.
        assert_eq!(
            rounds(&[(0, 7, 6), (0, 13, 5), (0, 18, 1)], Some(3), 10),
            [vec![(0, 7, 6, 0, 5)], vec![(0, 13, 5, 6, 11), (0, 18, 1, 11, 11)]]
        );
    }

    #[test]
    fn every_token_is_read_once_and_with_all_it_sees() {
        for window in 1..7 {
            for capacity in window - 1 + ALIGN..20 {
                for start in 0..20 {
                    for tokens in 0..30 {
                        let spans = [(3, start, tokens), (3, start + tokens, 5)];
                        let mut next = start;
                        for round in rounds(&spans, Some(window), capacity) {
                            let (from, seen) = (next, round[0].4);
                            for (_, position, tokens, row, _) in round {
                                assert_eq!((position, row), (next, next - start));
                                next += tokens;
                            }
                            assert_eq!(seen, seen_from(from, Some(window)));
                            assert!(next - seen <= capacity);
                        }
                        assert_eq!(next, start + tokens + 5);
                    }
                }
            }
        }
    }

    #[test]
    fn a_cut_is_possible_where_all_is_held_that_is_seen() {
        let held = Held { from: 10, to: 20 };
        let cuts = |held: Held, window| -> Vec<usize> {
            (0..25).filter(|&position| held.can_cut(position, window)).collect()
        };
        assert_eq!(cuts(held, Some(4)), [0, 13, 14, 15, 16, 17, 18, 19, 20]);
        assert_eq!(cuts(held, Some(11)), [0, 20]);
        // A token that sees itself alone needs nothing.
        assert_eq!(cuts(held, Some(1)), (0..=20).collect::<Vec<_>>());
        assert_eq!(cuts(Held { from: 0, to: 3 }, Some(100)), [0, 1, 2, 3]);
        assert_eq!(cuts(Held { from: 0, to: 3 }, None), [0, 1, 2, 3]);

        let mut cut = held;
        cut.cut(15);
        assert_eq!(cut, Held { from: 10, to: 15 });
        cut.cut(17);
        assert_eq!(cut, Held { from: 10, to: 15 });
        cut.cut(0);
        assert_eq!(cut, Held { from: 0, to: 0 });
    }

    #[test]
    fn a_span_begins_where_its_layer_or_the_span_before_it_ends_or_can_be_cut() {
        let try_spans = |batch: &[(usize, usize, usize)]| {
            let span = |&(sequence, start, tokens)| Span { sequence, start, tokens };
            let batch = Batch::new(batch.iter().map(span).collect());
            check_spans(&batch, 7, Some(4), 2, |sequence| match sequence {
                0 => Held { from: 10, to: 20 },
                _ => Held::default(),
            })
        };
        for batch in [
            &[(0, 20, 3), (1, 0, 5)][..],
            &[(0, 20, 0)],
            &[(0, 13, 1)],
            &[(0, 0, 1)],
            &[(1, 0, 5), (0, 15, 1), (1, 5, 2), (0, 16, 2), (1, 7, 1)],
        ] {
            assert_eq!(try_spans(batch), Ok(()), "{batch:?}");
        }
        let out_of_range = |what, index, limit| Error::OutOfRange { what, index, limit };
        for (batch, error) in [
            (&[(2, 0, 1)][..], out_of_range("sequence", 2, 2)),
            (&[(0, 21, 1)], out_of_range("position", 21, 21)),
            (&[(1, 0, 5), (1, 6, 1)], out_of_range("position", 6, 6)),
            (&[(0, 12, 1)], Error::Dropped { layer: 7, held_from: 10, position: 12, seen_from: 9 }),
        ] {
            assert_eq!(try_spans(batch), Err(error), "{batch:?}");
        }
        assert_eq!(
            try_spans(&[(0, 12, 1)]).unwrap_err().to_string(),
            "the state of layer 7 holds positions from 10 on, a token at 12 sees from 9 on: \
             read the sequence again from position 0"
        );
        assert_eq!(
            try_spans(&[(0, 15, 3), (1, 0, 1), (0, 17, 1)]).unwrap_err().to_string(),
            "start of a span of sequence 0 is 17, expected 18, the end of the span before it"
        );
    }
}
