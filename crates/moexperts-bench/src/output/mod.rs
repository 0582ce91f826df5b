//! What the program shows and writes.

pub mod file;
pub mod progress;
pub(crate) mod table;
pub mod text;

use std::io::{Write as _, stdout};

use crate::error::BenchError;

/// Writes to standard output at once.
///
/// # Errors
/// [`BenchError::BrokenPipe`] if its reader is gone.
pub fn print(text: &str) -> Result<(), BenchError> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(BenchError::output)
}
