//! Which commit the running program was built from, for the files of results it writes.
//!
//! A build script that asked git would be run, and every crate above it compiled, after each edit and
//! each commit. So git is asked when results are written, in the checkout that this crate was compiled
//! in, and the answer holds only for a program that is newer than everything it is built from there:
//! cargo rebuilds it after a change, and git touches every file that a change of commits changes.
//!
//! - sources as committed, program newer: the commit
//! - sources with changes, program newer: the commit and a hash of the changes, so that the results of
//!   two such programs do not mix
//! - a source newer than the program: it may have been another one when the program was built; the
//!   commit is named with a hash of the program, which no other program has
//! - no checkout: not known, unless `MOEXPERTS_COMMIT` named the commit when this crate was compiled,
//!   which `cargo xtask gpu-check` does for programs that leave the checkout

use std::{env, fs, io, path::Path, process::Command, time::SystemTime};

/// The folder of this crate, below the root of its checkout.
const FOLDER: &str = "crates/moexperts-bench/";

/// What a program is built from, as pathspecs of git seen from the root: no tests, and no crate that
/// is there for tests, for Python or for the project's tasks.
const SOURCES: [&str; 15] = [
    "Cargo.toml",
    "Cargo.lock",
    "models/*/*.json",
    "models/*/*.safetensors",
    "crates/*/Cargo.toml",
    "crates/*/build.rs",
    "crates/*/src/**",
    "crates/*/kernels/**",
    "crates/*/page/**",
    ":(exclude,glob)crates/moexperts-bench/src/bin/**",
    ":(exclude,glob)crates/moexperts-conformance/**",
    ":(exclude,glob)crates/moexperts-cuda-emulator/**",
    ":(exclude,glob)crates/moexperts-python/**",
    ":(exclude,glob)crates/*/src/**/tests/**",
    ":(exclude,glob)crates/*/src/**/tests.rs",
];

/// The commit; `None` where nothing is known of it.
pub(crate) fn commit() -> Option<String> {
    if let Some(commit) = option_env!("MOEXPERTS_COMMIT") {
        return Some(commit.to_owned());
    }
    commit_in(Path::new(env!("CARGO_MANIFEST_DIR")), &env::current_exe().ok()?)
}

/// The commit of a program that was built from the crate in a folder.
fn commit_in(folder: &Path, program: &Path) -> Option<String> {
    if git(folder, &["rev-parse", "--show-prefix"])?.trim() != FOLDER {
        return None;
    }
    let root = folder.parent()?.parent()?;
    let commit = git(root, &["rev-parse", "--short=12", "HEAD"])?.trim().to_owned();
    let built = fs::metadata(program).and_then(|there| there.modified()).ok()?;
    if newest(root)?.is_none_or(|source| source > built) {
        return Some(format!("{commit}+older-{:016x}", fnv1a(&fs::read(program).ok()?)));
    }
    let changes = changes(root)?;
    if changes.is_empty() {
        return Some(commit);
    }
    Some(format!("{commit}+changes-{:016x}", fnv1a(&changes)))
}

/// When a source was changed last; `None` inside if one that git knows is gone.
fn newest(root: &Path) -> Option<Option<SystemTime>> {
    let listed = pathspecs(&["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let files = git(root, &listed)?;
    let times = files.split_terminator('\0').map(|file| fs::metadata(root.join(file))?.modified());
    let times: io::Result<Vec<SystemTime>> = times.collect();
    Some(times.ok().and_then(|times| times.into_iter().max()))
}

/// What differs from the commit: the changes of its files, and the files that it lacks.
fn changes(root: &Path) -> Option<Vec<u8>> {
    let mut changes = git(root, &pathspecs(&["diff", "--no-ext-diff", "--binary", "HEAD"]))?;
    let others = git(root, &pathspecs(&["ls-files", "-z", "--others", "--exclude-standard"]))?;
    for file in others.split_terminator('\0') {
        changes += file;
        changes += &String::from_utf8_lossy(&fs::read(root.join(file)).ok()?);
    }
    Some(changes.into_bytes())
}

/// A command of git, for the sources alone.
fn pathspecs(command: &[&'static str]) -> Vec<&'static str> {
    // So that `*` stands for one folder and `**` for any number of them.
    let mut words = vec!["--glob-pathspecs"];
    words.extend(command.iter().chain(&["--"]).chain(&SOURCES));
    words
}

/// What a command of git writes; `None` if it cannot be run or fails.
fn git(folder: &Path, words: &[&str]) -> Option<String> {
    let output = Command::new("git").current_dir(folder).args(words).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The FNV-1a hash, which is the same for every compiler.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::{fs::File, path::PathBuf, time::Duration};

    use super::*;

    /// A checkout with one source, and a program in it.
    struct Checkout {
        root: tempfile::TempDir,
    }

    impl Checkout {
        fn new() -> Self {
            let checkout = Self { root: tempfile::tempdir().unwrap() };
            fs::create_dir_all(checkout.folder().join("src")).unwrap();
            fs::create_dir_all(checkout.folder().join("tests")).unwrap();
            fs::write(checkout.source(), "fn main() {}").unwrap();
            checkout.git(&["init", "--quiet"]);
            checkout.commit();
            fs::write(checkout.program(), "the program").unwrap();
            checkout
        }

        fn folder(&self) -> PathBuf {
            self.root.path().join(FOLDER)
        }

        fn source(&self) -> PathBuf {
            self.folder().join("src/main.rs")
        }

        fn program(&self) -> PathBuf {
            self.root.path().join("program")
        }

        #[track_caller]
        fn git(&self, words: &[&str]) -> String {
            let author = ["-c", "user.name=Test", "-c", "user.email=test@localhost"];
            git(self.root.path(), &[&author, words].concat()).unwrap()
        }

        fn commit(&self) -> String {
            self.git(&["add", "crates"]);
            self.git(&["commit", "--quiet", "--allow-empty", "--message", "a commit"]);
            self.git(&["rev-parse", "--short=12", "HEAD"]).trim().to_owned()
        }

        /// Changes the source, as long before or after the program was built as is said.
        fn change(&self, seconds_before: u64, seconds_after: u64) {
            fs::write(self.source(), "fn main() { println!() }").unwrap();
            let built = fs::metadata(self.program()).unwrap().modified().unwrap();
            let time = built - Duration::from_secs(seconds_before);
            let time = time + Duration::from_secs(seconds_after);
            File::options().write(true).open(self.source()).unwrap().set_modified(time).unwrap();
        }

        fn named(&self) -> String {
            commit_in(&self.folder(), &self.program()).unwrap()
        }
    }

    #[test]
    fn a_program_of_committed_sources_has_their_commit() {
        let checkout = Checkout::new();
        let first = checkout.named();
        assert_eq!(first.len(), 12);
        // Changes that were built and then committed are the commit.
        checkout.change(5, 0);
        let second = checkout.commit();
        assert_eq!(checkout.named(), second);
        assert_ne!(first, second);
        fs::write(checkout.folder().join("tests/it.rs"), "no part of the program").unwrap();
        assert_eq!(checkout.named(), second);
    }

    #[test]
    fn a_program_of_changed_sources_does_not_pass_for_the_commit() {
        let checkout = Checkout::new();
        let commit = checkout.named();
        checkout.change(5, 0);
        let changed = checkout.named();
        assert!(changed.starts_with(&format!("{commit}+changes-")), "{changed}");
        fs::write(checkout.folder().join("src/new.rs"), "").unwrap();
        fs::write(checkout.program(), "another program").unwrap();
        assert_ne!(checkout.named(), changed);
    }

    #[test]
    fn a_program_older_than_its_sources_is_named_by_its_content() {
        let checkout = Checkout::new();
        checkout.change(0, 5);
        let commit = checkout.commit();
        let named = checkout.named();
        assert!(named.starts_with(&format!("{commit}+older-")), "{named}");
        fs::write(checkout.program(), "another program").unwrap();
        checkout.change(0, 5);
        assert_ne!(checkout.named(), named);
        fs::remove_file(checkout.source()).unwrap();
        assert!(checkout.named().contains("+older-"));
    }

    #[test]
    fn nothing_is_known_outside_the_checkout() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(commit_in(folder.path(), &folder.path().join("program")), None);
    }
}
