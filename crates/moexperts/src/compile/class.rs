//! The shapes that share a plan.

use std::fmt;

use moexperts_core::{Batch, Device};

use crate::{
    graph::RowCounts,
    model::{Input, LogitsRows},
};

/// The most sequences a decode step has a class for. Each number up to it has its own, because a
/// captured step has one shape.
const MAX_DECODE: usize = 64;

/// Tokens of the smallest and of the largest bucket of prompts. A prompt's workspace is at most twice
/// what it needs; above the largest that would be much memory, so each length is a class by itself.
const BUCKETS: [usize; 2] = [16, 8192];

/// What forwards do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ForwardKind {
    /// Every sequence has one token.
    Decode,
    /// Sequences have any number of tokens.
    Prefill,
    /// A vision tower reads a picture.
    Picture,
}

/// Forwards that one plan runs.
///
/// A decode step has a class for each number of sequences, up to 64. Prompts have one for each
/// bucket of tokens, 16 to 8192 in powers of two, and so have pictures for their patches. What is
/// larger is a class by itself, and so is every number of tokens that all get logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ShapeClass {
    pub(super) kind: ForwardKind,
    /// The most tokens, or patches.
    pub(super) tokens: usize,
    /// Of which tokens there are logits.
    pub(super) logits: LogitsRows,
    /// The most rows of logits.
    pub(super) logits_rows: usize,
    /// With pictures, the layers after which they add to their rows.
    pub(super) visuals: Option<usize>,
}

impl ShapeClass {
    /// A decode step of a number of sequences.
    pub(super) fn decode(sequences: usize) -> Self {
        Self {
            kind: ForwardKind::Decode,
            tokens: sequences,
            logits: LogitsRows::LastOfSpan,
            logits_rows: sequences,
            visuals: None,
        }
    }

    /// The prompts of a number of sequences, whose tokens together are `tokens`.
    pub(super) fn prefill(tokens: usize, sequences: usize) -> Self {
        let tokens = bucket(tokens);
        Self {
            kind: ForwardKind::Prefill,
            tokens,
            logits: LogitsRows::LastOfSpan,
            logits_rows: sequences.next_power_of_two().min(tokens),
            visuals: None,
        }
    }

    /// A picture of a number of patches.
    pub(crate) fn picture(patches: usize) -> Self {
        Self {
            kind: ForwardKind::Picture,
            tokens: bucket(patches),
            logits: LogitsRows::LastOfSpan,
            logits_rows: 0,
            visuals: None,
        }
    }

    /// The largest forward of the class.
    pub(super) fn at_most(&self) -> RowCounts {
        RowCounts { tokens: self.tokens, logits: self.logits_rows }
    }

    /// The class of a forward's input.
    pub(crate) fn of<D: Device>(input: &Input<'_, D>) -> Self {
        let sequences = read(input.batch);
        let deepstack = input.visuals.iter().map(|visual| visual.features.deepstack.len());
        let visuals = deepstack.max();
        match (input.logits, visuals) {
            (LogitsRows::LastOfSpan, None) if sequences == input.batch.tokens() => {
                Self::decode(sequences)
            }
            (LogitsRows::LastOfSpan, visuals) => {
                Self { visuals, ..Self::prefill(input.batch.tokens(), sequences) }
            }
            (LogitsRows::All, visuals) => {
                // A bucket of logits would be large.
                let (tokens, logits) = (input.batch.tokens(), LogitsRows::All);
                Self { kind: ForwardKind::Prefill, tokens, logits, logits_rows: tokens, visuals }
            }
        }
    }

    /// Whether its plan is kept for the next forward of any session. A session keeps that of its
    /// last forward, whatever it is.
    pub(super) fn is_kept(&self) -> bool {
        !self.is_outside() && self.logits == LogitsRows::LastOfSpan
    }

    /// Whether it is larger than every class.
    pub(super) fn is_outside(&self) -> bool {
        self.tokens > if self.kind == ForwardKind::Decode { MAX_DECODE } else { BUCKETS[1] }
    }
}

/// Sequences with tokens.
fn read(batch: &Batch) -> usize {
    batch.spans().iter().filter(|span| span.tokens > 0).count()
}

/// The tokens of the bucket that a number of tokens falls into.
fn bucket(tokens: usize) -> usize {
    if tokens > BUCKETS[1] { tokens } else { tokens.next_power_of_two().max(BUCKETS[0]) }
}

impl fmt::Display for ShapeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ForwardKind::Decode => write!(f, "decode of batch {}", self.tokens)?,
            ForwardKind::Prefill => write!(f, "prefill of up to {} tokens", self.tokens)?,
            ForwardKind::Picture => write!(f, "pictures of up to {} patches", self.tokens)?,
        }
        if self.logits == LogitsRows::All {
            f.write_str(", all logits")?;
        }
        if self.visuals.is_some() {
            f.write_str(", with pictures")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_share_a_class_up_to_the_next_power_of_two() {
        assert_eq!(ShapeClass::prefill(1, 1), ShapeClass::prefill(16, 1));
        assert_eq!(ShapeClass::prefill(17, 1), ShapeClass::prefill(32, 1));
        assert_ne!(ShapeClass::prefill(32, 1), ShapeClass::prefill(33, 1));
        assert_eq!(ShapeClass::prefill(100, 3), ShapeClass::prefill(100, 4));
        assert_eq!(ShapeClass::prefill(100, 2).to_string(), "prefill of up to 128 tokens");
    }

    #[test]
    fn what_is_larger_than_every_class_is_outside() {
        assert!(!ShapeClass::prefill(8192, 1).is_outside());
        assert!(ShapeClass::prefill(8193, 1).is_outside());
        assert_eq!(ShapeClass::prefill(8193, 1).tokens, 8193);
        assert!(!ShapeClass::decode(64).is_outside());
        assert!(ShapeClass::decode(65).is_outside());
        assert_ne!(ShapeClass::decode(3), ShapeClass::decode(4));
    }
}
