//! What is kept on disk from run to run: in which folder, and how a file is replaced.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use moexperts_core::Variable;
use tempfile::NamedTempFile;

/// The folder of caches.
pub(crate) const XDG_CACHE_HOME: Variable = Variable::new(
    "XDG_CACHE_HOME",
    "folder of caches: compiled kernels, what autotuning measured, the hub where HF_HOME is not set; \
     ~/.cache",
);

/// The home folder, which [`std::env::home_dir`] reads.
pub(crate) const HOME: Variable =
    Variable::new("HOME", "the user's folder, the ~ of other defaults; that of the user database");

/// The user's folder of caches: `$XDG_CACHE_HOME`, or else `~/.cache`; `None` without a home.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let folder = XDG_CACHE_HOME.get().filter(|folder| !folder.is_empty());
    folder.map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".cache")))
}

/// Replaces a file in one step, its folder made if need be: other processes see the old content or
/// the new one, never a part.
///
/// # Errors
/// If the folder or the file cannot be written, and what `write` returns. Nothing is left over.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    // A temporary name that is unique, so that two processes do not write the same file.
    let mut file = NamedTempFile::new_in(folder)?;
    write(&mut file)?;
    file.persist(path)?;
    Ok(())
}

/// FNV-1a. Unlike the standard library's hashes it is the same in every version of the compiler, so
/// names of files may depend on it.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_published_vectors() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_file_that_cannot_be_written_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("not/there/yet");
        replace(&path, |file| file.write_all(b"whole")).unwrap();
        let failed = replace(&path, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("no more"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
