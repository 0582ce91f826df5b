//! What flows between operations, as symbols: the numbers follow with a forward.

/// What flows between operations: an index into [`Graph::values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Value(pub(crate) usize);

/// How many rows a value has in a forward of T tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ValueRows {
    /// T; of a vision tower, its patches.
    Tokens,
    /// One for each token whose logits are computed.
    Logits,
    /// T divided by this: one for each block of patches.
    Merged(usize),
}

/// The symbols of [`ValueRows`] in numbers, for one forward or at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowCounts {
    pub(crate) tokens: usize,
    pub(crate) logits: usize,
}

impl ValueRows {
    pub(crate) fn count(self, counts: RowCounts) -> usize {
        match self {
            Self::Tokens => counts.tokens,
            Self::Logits => counts.logits,
            Self::Merged(tokens) => counts.tokens / tokens,
        }
    }
}

/// The shape of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueShape {
    /// Activations [rows, cols].
    Tensor { rows: ValueRows, cols: usize },
    /// K expert ids and weights for each token.
    Routing { experts_per_token: usize },
}
