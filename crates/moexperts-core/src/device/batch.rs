//! Which rows of a forward are of which sequence.

use std::ops::Range;

/// The tokens of one sequence in a [`Batch`]: positions `start .. start + tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Which sequence of the state.
    pub sequence: usize,
    /// Position of the first token; the sequence forgets everything from there on.
    pub start: usize,
    /// Number of tokens.
    pub tokens: usize,
}

/// Which rows of a forward belong to which sequence: spans one after another, without padding. If a
/// sequence has several spans, each begins where the one before it ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    spans: Vec<Span>,
}

impl Batch {
    /// Rows in the order of the spans.
    pub fn new(spans: Vec<Span>) -> Self {
        Self { spans }
    }

    /// Removes all spans.
    pub fn clear(&mut self) {
        self.spans.clear();
    }

    /// Adds a span, whose rows follow the others'.
    pub fn push(&mut self, span: Span) {
        self.spans.push(span);
    }

    /// The spans.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// T: tokens of all spans.
    pub fn tokens(&self) -> usize {
        self.spans.iter().map(|span| span.tokens).sum()
    }

    /// Each span with the rows it takes.
    pub fn rows(&self) -> impl Iterator<Item = (Span, Range<usize>)> {
        self.spans.iter().scan(0, |next, &span| {
            let rows = *next..*next + span.tokens;
            *next = rows.end;
            Some((span, rows))
        })
    }

    /// Whether two spans may be of the same sequence. False only where none are; it compares
    /// neighbours alone, so it may be true where none are.
    pub(crate) fn may_repeat_sequences(&self) -> bool {
        !self.spans.is_sorted_by(|a, b| a.sequence < b.sequence)
    }
}
