//! Results of a run.

use std::{error, fmt};

use crate::{case::Case, tolerance::Mismatch};

/// The end of one case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything holds.
    Passed,
    /// The backend's `check` says it cannot run these experts, and its `forward` agrees.
    Refused(String),
}

/// A case a backend refuses.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// The backend.
    pub backend: String,
    /// The case.
    pub case: Case,
    /// The reason that its `check` gives.
    pub reason: String,
}

/// The cases that passed, and those that were refused.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// Cases that passed.
    pub passed: usize,
    /// Cases that were refused.
    pub refused: Vec<Refusal>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cases passed, {} refused", self.passed, self.refused.len())?;
        for Refusal { case, reason, .. } in &self.refused {
            write!(f, "\n  refused {case}: {reason}")?;
        }
        Ok(())
    }
}

/// A case a backend did not pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// The backend.
    pub backend: String,
    /// The device.
    pub device: &'static str,
    /// The case; [`check_case`](crate::check_case) runs it again.
    pub case: Box<Case>,
    /// The problem.
    pub problem: Problem,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, device, case, problem } = self;
        write!(f, "experts implementation `{backend}` on {device}, case {case}: {problem}")
    }
}

impl error::Error for Failure {}

/// The ways in which a backend can be wrong.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Problem {
    /// Too far from the reference.
    Mismatch(Mismatch),
    /// Two results that must be the same differ.
    Differs {
        /// Which results.
        what: String,
        /// First coordinate where they do.
        at: [usize; 2],
        /// The values there.
        values: [f32; 2],
    },
    /// Two backends are further apart than twice the allowance.
    Disagrees {
        /// The other backend.
        with: String,
        /// Its value in place of the expected one, and twice the allowance.
        mismatch: Mismatch,
    },
    /// A NaN in one token's hidden states did not stay in its row, or vanished from it.
    NotANumber {
        /// First coordinate where that shows.
        at: [usize; 2],
        /// The value there.
        got: f32,
        /// The token whose hidden states are NaN.
        token: usize,
    },
    /// An input changed.
    Changed(&'static str),
    /// A call with a wrong shape was accepted.
    Accepted(String),
    /// `check` refuses what `forward` runs.
    RanRefused(String),
    /// A call that should succeed returned an error.
    Error {
        /// Which call.
        what: String,
        /// The error.
        error: String,
    },
    /// A call panicked.
    Panicked {
        /// Which call.
        what: String,
        /// The message.
        message: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mismatch(Mismatch { token, column, got, expected, allowance }) => write!(
                f,
                "out[{token}, {column}] is {got}, expected {expected} within {allowance:e}"
            ),
            Self::Differs { what, at: [row, column], values: [first, second] } => {
                write!(f, "{what}: out[{row}, {column}] is {first:?} and {second:?}")
            }
            Self::Disagrees {
                with,
                mismatch: Mismatch { token, column, got, expected, allowance },
            } => write!(
                f,
                "out[{token}, {column}] is {got}, `{with}` gives {expected}, within {allowance:e} allowed"
            ),
            Self::NotANumber { at: [row, column], got, token } => write!(
                f,
                "out[{row}, {column}] is {got} after the hidden states of token {token} became NaN"
            ),
            Self::Changed(what) => write!(f, "`forward` changed {what}"),
            Self::Accepted(what) => write!(f, "`forward` accepts {what}"),
            Self::RanRefused(reason) => {
                write!(f, "`check` refuses it, `forward` runs it; the reason given: {reason}")
            }
            Self::Error { what, error } => write!(f, "{what} failed: {error}"),
            Self::Panicked { what, message } => write!(f, "{what} panicked: {message}"),
        }
    }
}
