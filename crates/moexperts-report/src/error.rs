//! What can be wrong with a file of results.

use std::{io, path::PathBuf};

/// A result with a [`ReportError`].
pub type Result<T, E = ReportError> = std::result::Result<T, E>;

/// A file of results that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// It cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no JSON, or what it holds is not what this version of the format has.
    #[error("`{}` is damaged", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// It holds something else.
    #[error("`{}` holds {got}, expected the results of `moexperts bench sweep`", path.display())]
    NotResults {
        /// The file.
        path: PathBuf,
        /// What it holds.
        got: &'static str,
    },
    /// It has another version of the format.
    #[error("`{}` has version {got} of the results, expected {expected}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        got: u64,
        /// The version that is read.
        expected: u64,
    },
    /// Its parts contradict each other.
    #[error("`{}` contradicts itself: {what}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What does not fit: the place, what was expected, what is there.
        what: String,
    },
}

impl ReportError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } => {
                Some("`moexperts bench sweep --out DIR` writes DIR/results.json".to_owned())
            }
            Self::NotResults { .. } => {
                Some("the file is the results.json in the folder of --out".to_owned())
            }
            Self::Version { got, expected, .. } if got > expected => {
                Some("a newer moexperts wrote it; use that one".to_owned())
            }
            Self::Version { .. } => Some("measure again with this moexperts".to_owned()),
            Self::Malformed { .. } | Self::Invalid { .. } => {
                Some("measure again, or use an undamaged copy".to_owned())
            }
        }
    }
}
