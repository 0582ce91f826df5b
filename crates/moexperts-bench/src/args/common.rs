//! What several benchmarks have in common.

use std::{num::NonZero, path::PathBuf, time::Duration};

/// What the benchmarks of backends have.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// The backends, separated by commas; all that are registered by default.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) experts_implementation: Vec<String>,

    /// A JSON file for the rows, replaced after each of them.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number of seconds, at least 0".to_owned();
    let seconds: f64 = text.parse().map_err(|_| expected())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| expected())
}

/// The most sequences generated together: their prompts can be held.
pub(crate) const MAX_BATCH: usize = 1 << 12;

pub(crate) fn up_to<const MAX: usize>(text: &str) -> Result<NonZero<usize>, String> {
    match text.parse::<NonZero<usize>>() {
        Ok(count) if count.get() <= MAX => Ok(count),
        _ => Err(format!("expected a number from 1 to {MAX}")),
    }
}

pub(crate) fn new_tokens(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 2..) => Ok(count),
        _ => Err("expected a number, at least 2".to_owned()),
    }
}
