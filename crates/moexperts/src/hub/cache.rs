//! One repository's folder in the cache that Python's `huggingface_hub` shares.
//!
//! ```text
//! {cache}/models--{organisation}--{name}/
//!     blobs/{etag}                   the bytes, once per content
//!     refs/{revision}                the commit a branch or tag stood at
//!     snapshots/{commit}/{file}      links to blobs
//!     .no_exist/{commit}/{file}      empty: the commit has no such file
//! {cache}/.locks/models--{organisation}--{name}/{etag}.lock
//! ```

use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{
    error::HubError,
    names::{is_commit, is_file_name},
};
use crate::disk;

/// The folders of one repository. Names are checked before they come here: those of a caller by
/// `check_repo_id` and `check_revision`, those of a server by `is_file_name` and `is_inner_path`.
pub(super) struct RepositoryCache {
    folder: PathBuf,
    locks: PathBuf,
    symlinks: bool,
}

impl RepositoryCache {
    pub(super) fn new(cache_dir: &Path, repo_id: &str, symlinks: bool) -> Self {
        let name = format!("models--{}", repo_id.replace('/', "--"));
        Self { folder: cache_dir.join(&name), locks: cache_dir.join(".locks").join(name), symlinks }
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The commit a revision stood at when it was last fetched.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.reference(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_file_name(commit))
    }

    /// Whether anything was fetched of the commit that a revision stood at.
    pub(super) fn has_snapshot_of(&self, revision: &str) -> bool {
        self.commit_of(revision).is_some_and(|commit| self.snapshot(&commit).exists())
    }

    /// Notes the commit for runs without a network, where the cache may be written.
    pub(super) fn write_ref(&self, revision: &str, commit: &str) {
        if self.commit_of(revision).as_deref() == Some(commit) {
            return;
        }
        let path = self.reference(revision);
        best_effort(&path, disk::replace(&path, |file| file.write_all(commit.as_bytes())));
    }

    /// Whether the hub said before that the commit has no such file.
    pub(super) fn is_known_absent(&self, commit: &str, file: &str) -> bool {
        self.absent_marker(commit, file).exists()
    }

    /// Saves later runs a request, where the cache may be written.
    pub(super) fn mark_absent(&self, commit: &str, file: &str) {
        let marker = self.absent_marker(commit, file);
        best_effort(&marker, make_parent(&marker).and_then(|()| fs::write(&marker, "")));
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Where a download grows. Only this project uses the name: the `{etag}.incomplete` of other
    /// programs may have holes, and only bytes written front to back can be continued. Without the
    /// lock the name is new each time, so that two downloads do not write one file.
    pub(super) fn partial(&self, etag: &str, locked: bool) -> PathBuf {
        static UNLOCKED: AtomicUsize = AtomicUsize::new(0);
        let blobs = self.folder.join("blobs");
        if locked {
            return blobs.join(format!("{etag}.moexperts.incomplete"));
        }
        let count = UNLOCKED.fetch_add(1, Ordering::Relaxed);
        blobs.join(format!("{etag}.{}-{count}.moexperts.incomplete", std::process::id()))
    }

    /// Waits until no other thread or process, Python's included, downloads this blob. `None` where
    /// the cache or its file system allow no lock.
    pub(super) fn lock(&self, etag: &str) -> Option<File> {
        let path = self.locks.join(format!("{etag}.lock"));
        // A lock of another user may be read and still be locked.
        let lock = make_parent(&path)
            .and_then(|()| File::create(&path))
            .or_else(|error| File::open(&path).map_err(|_| error));
        let lock = best_effort(&path, lock)?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            tracing::info!(path = %path.display(), "waiting for another download of the same file");
        }
        best_effort(&path, lock.lock())?;
        Some(lock)
    }

    /// Makes `file` of the snapshot point to the blob. A pointer in use is left alone.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let pointer = self.snapshot(commit).join(file);
        if pointer.exists() {
            return Ok(());
        }
        create_parent(&pointer)?;
        // A pointer to a blob that is gone does not exist, yet is in the way.
        if pointer.is_symlink() {
            fs::remove_file(&pointer).map_err(cache_error(&pointer))?;
        }
        let up = "../".repeat(2 + file.matches('/').count());
        let relative = PathBuf::from(format!("{up}blobs/{etag}"));
        let linked = match self.symlinks {
            true => symlink(&relative, &pointer),
            false => Err(ErrorKind::Unsupported.into()),
        };
        // Some file systems have no links of either kind.
        let linked = linked
            .or_else(|error| when_not_there(error, || fs::hard_link(self.blob(etag), &pointer)))
            .or_else(|error| {
                when_not_there(error, || fs::copy(self.blob(etag), &pointer).map(drop))
            });
        linked.map_err(cache_error(&pointer))
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }

    fn absent_marker(&self, commit: &str, file: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(file)
    }
}

/// Wraps an error of the system with the path it happened at.
pub(super) fn cache_error(path: &Path) -> impl FnOnce(io::Error) -> HubError {
    let path = path.to_owned();
    move |source| HubError::Cache { path, source }
}

/// Makes the folder of a path of the cache.
pub(super) fn create_parent(path: &Path) -> Result<(), HubError> {
    make_parent(path).map_err(cache_error(folder(path)))
}

fn make_parent(path: &Path) -> io::Result<()> {
    fs::create_dir_all(folder(path))
}

fn folder(path: &Path) -> &Path {
    path.parent().expect("paths of the cache have a folder")
}

/// What only saves later runs time may fail: the cache may belong to another user.
fn best_effort<T>(path: &Path, result: io::Result<T>) -> Option<T> {
    result
        .inspect_err(|error| {
            tracing::debug!(path = %path.display(), %error, "the cache cannot be written");
        })
        .ok()
}

/// Tries another way, unless another download has made the file meanwhile.
fn when_not_there(error: io::Error, other: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { other() }
}

#[cfg(unix)]
fn symlink(blob: &Path, pointer: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(blob, pointer)
}

/// Symbolic links need privileges on Windows, hard links do not.
#[cfg(not(unix))]
fn symlink(_blob: &Path, _pointer: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        checkpoint::index::is_inner_path,
        hub::names::{check_repo_id, check_revision},
    };

    /// Names as a caller or a server may send them: many dots, slashes and what systems take for them.
    fn name() -> impl Strategy<Value = String> {
        prop_oneof!["[a-b./\\\\:~\\-]{0,12}", any::<String>(), "[0-9a-f]{40}", "(\\.\\./){1,3}a"]
    }

    /// Whether a path is below a folder and never leaves it on the way.
    fn is_below(folder: &Path, path: &Path) -> bool {
        path.strip_prefix(folder).is_ok_and(|rest| {
            rest.components().count() > 0
                && rest.components().all(|part| matches!(part, Component::Normal(_)))
        })
    }

    #[test]
    fn without_symbolic_links_a_snapshot_has_the_file_itself() {
        let root = tempfile::tempdir().unwrap();
        let cache = RepositoryCache::new(root.path(), "owner/name", false);
        create_parent(&cache.blob("hash")).unwrap();
        fs::write(cache.blob("hash"), "content").unwrap();
        for _ in 0..2 {
            cache.link("commit", "a/file", "hash").unwrap();
            let pointer = cache.snapshot("commit").join("a/file");
            assert!(!pointer.is_symlink());
            assert_eq!(fs::read_to_string(&pointer).unwrap(), "content");
        }
    }

    proptest! {
        #[test]
        fn no_name_that_passes_the_checks_leaves_the_cache(
            repo_id in name(),
            revision in name(),
            file in name(),
            etag in name(),
        ) {
            let root = Path::new("/cache");
            let repo_id =
                if check_repo_id(&repo_id).is_ok() { repo_id } else { "owner/name".to_owned() };
            let cache = RepositoryCache::new(root, &repo_id, true);
            prop_assert!(is_below(root, &cache.folder) && is_below(root, &cache.locks));
            if check_revision(&revision).is_ok() {
                prop_assert!(is_below(&cache.folder, &cache.reference(&revision)));
            }
            if is_file_name(&etag) {
                prop_assert!(is_below(&cache.folder, &cache.blob(&etag)));
                for locked in [true, false] {
                    prop_assert!(is_below(&cache.folder, &cache.partial(&etag, locked)));
                }
                prop_assert!(is_below(&cache.folder, &cache.snapshot(&etag)));
                if is_inner_path(&file) {
                    prop_assert!(is_below(&cache.snapshot(&etag), &cache.snapshot(&etag).join(&file)));
                    prop_assert!(is_below(&cache.folder, &cache.absent_marker(&etag, &file)));
                }
            }
        }
    }
}
