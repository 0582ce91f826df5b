//! Tells the program which commit it is built from and with which compiler, for the files of results
//! it writes.

use std::{
    env,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::Path,
    process::Command,
};

fn main() {
    let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let rustc = env::var("RUSTC").expect("cargo sets it");
    if let Some(version) = output(Command::new(rustc).arg("--version")) {
        println!("cargo::rustc-env=MOEXPERTS_RUSTC={version}");
    }
    if let Some(commit) = commit(Path::new(&folder)) {
        println!("cargo::rustc-env=MOEXPERTS_COMMIT={commit}");
    }
}

/// The commit, with a mark if a crate has changed since; none outside the project's own repository.
fn commit(folder: &Path) -> Option<String> {
    let git = |words: &[&str]| output(Command::new("git").current_dir(folder).args(words));
    if git(&["rev-parse", "--show-prefix"])? != "crates/moexperts-cli/" {
        return None;
    }
    // A commit moves one of these, a change touches the other.
    let watched = [git(&["rev-parse", "--git-path", "logs/HEAD"])?, "..".to_owned()];
    for path in watched.iter().filter(|path| folder.join(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    // Told apart from other changes, so that the results of two such programs do not mix.
    Some(match git(&["diff", "HEAD", "--", ".."]) {
        Some(changes) if !changes.is_empty() => {
            let mut hasher = DefaultHasher::new();
            changes.hash(&mut hasher);
            format!("{commit}+changes-{:016x}", hasher.finish())
        }
        _ => commit,
    })
}

/// What a program writes; none if it cannot be run or fails.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
