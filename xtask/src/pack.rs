//! A pack: the executables that check a GPU, for a machine without cargo.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{Built, announce, first_line};

/// What a pack says of itself.
const FILE: &str = "pack.json";

/// The name of this project's program in a pack.
const PROGRAM: &str = "moexperts";

/// A folder of executables, and where they come from.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Pack {
    #[serde(skip)]
    folder: PathBuf,
    /// The commit they were built from.
    pub(crate) commit: String,
    /// The compiler.
    pub(crate) rustc: String,
    /// The newest version of the C library that they ask for.
    glibc: Option<String>,
    executables: Vec<Executable>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Executable {
    name: String,
    bytes: u64,
}

impl Pack {
    /// The pack of a folder.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let file = folder.join(FILE);
        let text = fs::read(&file).with_context(|| format!("no pack: {}", file.display()))?;
        let pack: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not that of a pack", file.display()))?;
        Ok(Self { folder: folder.to_owned(), ..pack })
    }

    /// Copies executables to a folder, without what only a debugger reads. What an earlier pack left
    /// there goes.
    pub(crate) fn write(folder: &Path, executables: &[Built]) -> Result<Self> {
        if let Ok(earlier) = Self::open(folder) {
            for executable in earlier.executables {
                fs::remove_file(folder.join(executable.name)).ok();
            }
        }
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let rustc = first_line(Command::new("rustc").arg("-V"))?;
        let (mut glibc, mut packed) = (None, Vec::new());
        for executable in executables {
            let name = name(executable);
            let to = folder.join(&name);
            copy(&executable.path, &to)?;
            let content = fs::read(&to)?;
            glibc = glibc.max(newest_glibc(&content));
            packed.push(Executable { name, bytes: content.len() as u64 });
        }
        let glibc = glibc.map(|(major, minor)| format!("{major}.{minor}"));
        let pack = Self {
            folder: folder.to_owned(),
            commit: commit()?,
            rustc,
            glibc,
            executables: packed,
        };
        fs::write(folder.join(FILE), serde_json::to_string_pretty(&pack)? + "\n")?;
        Ok(pack)
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.folder.join(PROGRAM)
    }

    /// Writes an archive of it beside its folder.
    pub(crate) fn archive(&self) -> Result<()> {
        let folder = self.folder.parent().context("the folder of the pack")?;
        let name = self.folder.file_name().context("the name of the pack")?;
        let mut archive = self.folder.clone().into_os_string();
        archive.push(".tar.gz");
        let mut tar = Command::new("tar");
        // Of a bare name it is empty.
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        tar.arg("-czf").arg(&archive).arg("-C").arg(folder);
        // What lies there beside the executables stays out.
        let files = self.executables.iter().map(|executable| executable.name.as_str());
        tar.args(files.chain([FILE]).map(|file| Path::new(name).join(file)));
        let status = tar.status().context("cannot run tar")?;
        ensure!(status.success(), "{tar:?} failed");
        let bytes = fs::metadata(&archive)?.len();
        announce(&format!("{}: {:.1} MB", archive.display(), bytes as f64 / 1e6));
        Ok(())
    }

    /// Says what it holds.
    pub(crate) fn announce(&self) {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        for Executable { name, bytes } in &self.executables {
            announce(&format!("{name}: {:.1} MB", megabytes(*bytes)));
        }
        let all = megabytes(self.executables.iter().map(|executable| executable.bytes).sum());
        let glibc = self.glibc.as_ref().map(|version| format!(", needs glibc {version} or newer"));
        let folder = self.folder.display();
        announce(&format!("{folder}: {all:.1} MB together{}", glibc.unwrap_or_default()));
    }
}

/// The commit of the working tree.
pub(crate) fn commit() -> Result<String> {
    let commit = first_line(Command::new("git").args(["rev-parse", "--short=12", "HEAD"]))?;
    let changes = Command::new("git").args(["status", "--porcelain"]).output()?;
    let suffix = if changes.stdout.is_empty() { "" } else { ", with local changes" };
    Ok(commit + suffix)
}

/// `moexperts`, `xtask`, `test-moexperts-cuda.conformance`.
fn name(executable: &Built) -> String {
    match executable.kind.as_str() {
        "test" => format!("test-{}.{}", executable.package, executable.target),
        _ => executable.target.clone(),
    }
}

/// Copies an executable without its symbols; with them where there is no `strip`.
fn copy(from: &Path, to: &Path) -> Result<()> {
    // The old one may be running.
    fs::remove_file(to).ok();
    let stripped = Command::new("strip").arg("-o").arg(to).arg(from).status();
    if !stripped.is_ok_and(|status| status.success()) {
        announce(&format!("not stripped: {}", to.display()));
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    ensure!(to.exists(), "`strip` wrote no {}", to.display());
    Ok(())
}

/// The newest version of glibc that an executable names.
fn newest_glibc(content: &[u8]) -> Option<(u32, u32)> {
    const PREFIX: &[u8] = b"GLIBC_";
    let starts = content.windows(PREFIX.len()).enumerate();
    starts
        .filter(|(_, window)| *window == PREFIX)
        .filter_map(|(start, _)| {
            let rest = content.get(start + PREFIX.len()..)?;
            let end = rest.iter().position(|byte| !(byte.is_ascii_digit() || *byte == b'.'))?;
            let mut numbers = str::from_utf8(&rest[..end]).ok()?.split('.');
            Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let content = b"..GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0GLIBC_";
        assert_eq!(newest_glibc(content), Some((2, 34)));
        assert_eq!(newest_glibc(b"static"), None);
    }

    #[test]
    fn tests_are_named_after_their_package() {
        let built = |kind: &str, target: &str| Built {
            package: "moexperts-cuda".to_owned(),
            target: target.to_owned(),
            kind: kind.to_owned(),
            path: PathBuf::new(),
        };
        assert_eq!(name(&built("test", "graph")), "test-moexperts-cuda.graph");
        assert_eq!(name(&built("bin", "moexperts")), "moexperts");
    }
}
