//! Files the program writes: a reader sees the old file or the new one, never a part.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use crate::error::BenchError;

/// Whether a file can be written there, to be said before the work is done; changes nothing.
///
/// # Errors
/// If it cannot.
pub fn check(path: &Path) -> Result<(), BenchError> {
    let partial = partial(path);
    let tried = check_regular(path)
        .and_then(|()| fs::write(&partial, []))
        .and_then(|()| fs::remove_file(&partial));
    tried.map_err(|source| BenchError::Write { path: path.to_owned(), source })
}

/// Writes beside the file, then renames.
///
/// # Errors
/// If the file is no regular one or cannot be written.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), BenchError> {
    let partial = partial(path);
    let written = check_regular(path)
        .and_then(|()| fs::write(&partial, bytes))
        .and_then(|()| fs::rename(&partial, path));
    written.map_err(|source| {
        // The first error is the one to tell.
        let _ = fs::remove_file(&partial);
        BenchError::Write { path: path.to_owned(), source }
    })
}

fn check_regular(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(there) if !there.is_file() => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
        }
        _ => Ok(()),
    }
}

fn partial(path: &Path) -> PathBuf {
    let mut partial = path.to_owned().into_os_string();
    partial.push(format!(".{}.part", process::id()));
    partial.into()
}
