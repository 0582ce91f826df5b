//! What the program shows and writes.

pub mod file;
pub mod progress;
pub(crate) mod table;
pub mod text;

use std::{
    fmt::Display,
    io::{Write as _, stderr, stdout},
};

use crate::error::BenchError;

/// Writes to standard output at once.
///
/// # Errors
/// [`BenchError::BrokenPipe`] if its reader is gone.
pub fn print(text: &str) -> Result<(), BenchError> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(BenchError::output)
}

/// Writes a line, or several, to standard error. It may be closed or full, which changes no result.
pub fn note(text: impl Display) {
    let mut line = text.to_string();
    if !line.ends_with('\n') {
        line.push('\n');
    }
    let _ = stderr().lock().write_all(line.as_bytes());
}
