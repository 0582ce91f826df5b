//! Errors of descriptions, backends and devices.

use std::fmt::Display;

use crate::weights::format::WeightFormat;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error about shapes, names or what a backend can run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two shapes that must agree do not.
    #[error("{what} has shape {got}, expected {expected}")]
    Shape {
        /// The tensor or argument.
        what: String,
        /// The shape it must have.
        expected: String,
        /// The shape it has.
        got: String,
    },
    /// There are more or fewer of something than there must be.
    #[error("expected {expected} {what}, got {got}")]
    Count {
        /// The things that are counted, in the plural: `experts per token`.
        what: String,
        /// The number there must be: `3`, `at most 2`.
        expected: String,
        /// The number there is.
        got: usize,
    },
    /// A setting, or the presence of something, is not one that is possible here.
    #[error("{what} is {got}, expected {expected}")]
    Value {
        /// The setting, in the singular: `sliding window`.
        what: String,
        /// The values that are possible: `at least 1`.
        expected: String,
        /// The value.
        got: String,
    },
    /// A weight is not stored in the format that the description promises.
    #[error("{what} has format {got}, expected {expected}")]
    Format {
        /// The weight.
        what: String,
        /// The format it must have.
        expected: WeightFormat,
        /// The format it has.
        got: WeightFormat,
    },
    /// Bytes that cannot hold the matrix described over them.
    #[error("{what}: {problem}")]
    Layout {
        /// The tensor.
        what: String,
        /// The part that does not fit.
        problem: String,
    },
    /// A word that names nothing this build knows.
    #[error("{what} `{got}` is not known, expected one of {known}")]
    Unknown {
        /// The kind of word: `dtype`.
        what: &'static str,
        /// The word.
        got: String,
        /// The known words, in a stable order.
        known: String,
    },
    /// No backend of this name is registered for the device.
    #[error(
        "experts implementation `{name}` is not registered for {device}, expected one of {known}"
    )]
    UnknownBackend {
        /// The requested name.
        name: String,
        /// The device.
        device: &'static str,
        /// The registered names, in a stable order.
        known: String,
    },
    /// A backend exists but cannot run these experts on this device.
    #[error("experts implementation `{name}` cannot run these experts on {device}: {problem}")]
    Backend {
        /// The backend.
        name: String,
        /// The device.
        device: &'static str,
        /// The thing that is missing.
        problem: String,
    },
    /// A backend name that cannot be registered.
    #[error("experts implementation `{name}` cannot be registered for {device}: {problem}")]
    Register {
        /// The name.
        name: String,
        /// The device.
        device: &'static str,
        /// The reason.
        problem: String,
    },
    /// A router that a layer with this number of experts cannot have.
    #[error("router: `{what}` is {got}, expected {expected}")]
    Router {
        /// The field of [`RouterSpec`](crate::RouterSpec).
        what: &'static str,
        /// The values that are possible.
        expected: String,
        /// The value.
        got: String,
    },
    /// Values that must be numbers are NaN or infinite.
    #[error("{what} are not finite at token {token}")]
    NotFinite {
        /// The values, in the plural: `router logits`.
        what: String,
        /// The first token (row) affected.
        token: usize,
    },
    /// An index beyond what it indexes.
    #[error("{what} {index} is out of range, expected less than {limit}")]
    OutOfRange {
        /// The thing that is indexed: `token id`.
        what: &'static str,
        /// The index.
        index: usize,
        /// The first index that is too large.
        limit: usize,
    },
    /// A span begins where a layer dropped what a token there sees: its window has moved on.
    #[error(
        "the state of layer {layer} holds positions from {held_from} on, a token at {position} \
         sees from {seen_from} on: read the sequence again from position 0"
    )]
    Dropped {
        /// The layer, in the list of states.
        layer: usize,
        /// The first position that the layer holds.
        held_from: usize,
        /// Where the span begins.
        position: usize,
        /// The first position that a token there sees.
        seen_from: usize,
    },
    /// The device refused an operation.
    #[error("{device}: {problem}")]
    Device {
        /// The device.
        device: &'static str,
        /// The reason.
        problem: String,
    },
}

/// Writes names as `` `a`, `b` `` for an error message.
pub(crate) fn listed<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    let quoted: Vec<String> =
        names.into_iter().map(|name| format!("`{}`", name.as_ref())).collect();
    quoted.join(", ")
}

impl Error {
    /// A [`Error::Shape`] of matrix shapes `[rows, cols]`.
    pub fn shape(what: impl Into<String>, expected: [usize; 2], got: [usize; 2]) -> Self {
        let text = |[rows, cols]: [usize; 2]| format!("[{rows}, {cols}]");
        Self::Shape { what: what.into(), expected: text(expected), got: text(got) }
    }

    /// A [`Error::Count`].
    pub fn count(what: impl Into<String>, expected: impl Display, got: usize) -> Self {
        Self::Count { what: what.into(), expected: expected.to_string(), got }
    }
}
