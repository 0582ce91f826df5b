//! What can go wrong between a description, a backend and a device.

use crate::DType;

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
    /// A tensor's element type is not the one the description promises.
    #[error("{what} has dtype {got}, expected {expected}")]
    DType {
        /// The tensor.
        what: String,
        /// The dtype it must have.
        expected: DType,
        /// The dtype it has.
        got: DType,
    },
    /// Bytes that cannot hold the matrix described over them.
    #[error("{what}: {problem}")]
    Layout {
        /// The tensor.
        what: String,
        /// What does not fit.
        problem: String,
    },
    /// A word that names nothing this build knows.
    #[error("{what} `{got}` is not known, expected one of {known}")]
    Unknown {
        /// What kind of word it is: `dtype`, `activation`.
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
        /// The name asked for.
        name: String,
        /// The device it was asked for on.
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
        /// What is missing.
        problem: String,
    },
    /// A backend name that cannot be registered.
    #[error("experts implementation `{name}` cannot be registered for {device}: {problem}")]
    Register {
        /// The name.
        name: String,
        /// The device.
        device: &'static str,
        /// Why not.
        problem: String,
    },
    /// A value that must be a number is NaN or infinite.
    #[error("{what} is not finite at token {token}")]
    NotFinite {
        /// The tensor.
        what: String,
        /// The first token (row) affected.
        token: usize,
    },
    /// An index beyond what it indexes.
    #[error("{what} {index} is out of range, expected less than {limit}")]
    OutOfRange {
        /// What is indexed: `token id`.
        what: &'static str,
        /// The index.
        index: usize,
        /// The first index that is too large.
        limit: usize,
    },
    /// The device refused an operation.
    #[error("{device}: {problem}")]
    Device {
        /// The device.
        device: &'static str,
        /// What it said.
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
}
