//! A pack: the executables that check a GPU, for a machine without cargo.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{Built, announce, answer};

/// What a pack says of itself.
pub(crate) const FILE: &str = "pack.json";

/// An executable for a pack, and which of its tests a GPU runs: those whose names have this in them.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) built: Built,
    pub(crate) filter: Option<&'static str>,
}

/// A folder of executables, and where they come from. Beside `test-PACKAGE.TARGET` there may be
/// `filter-PACKAGE.TARGET`, with what its tests are filtered by.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Pack {
    #[serde(skip)]
    folder: PathBuf,
    /// The commit they were built from.
    commit: String,
    /// The compiler.
    rustc: String,
    /// The newest version of the C library that they need.
    glibc: Option<String>,
    files: Vec<String>,
}

impl Pack {
    /// Copies executables to a folder, without what only a debugger reads. What an earlier pack left
    /// there goes.
    pub(crate) fn write(folder: &Path, executables: &[Packed]) -> Result<Self> {
        let earlier = fs::read(folder.join(FILE)).ok();
        let earlier = earlier.and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        for file in earlier.into_iter().flat_map(|earlier| earlier.files) {
            fs::remove_file(folder.join(file)).ok();
        }
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let rustc = answer(Command::new("rustc").arg("-V"))?.trim().to_owned();
        let (mut glibc, mut files) = (None, Vec::new());
        for Packed { built, filter } in executables {
            let name = name(built);
            let to = folder.join(&name);
            copy(&built.path, &to)?;
            let content = fs::read(&to)?;
            announce(&format!("{name}: {:.1} MB", content.len() as f64 / 1e6));
            glibc = glibc.max(newest_glibc(&content));
            if let Some(filter) = filter {
                files.push(name.replacen("test-", "filter-", 1));
                fs::write(folder.join(&files[files.len() - 1]), filter)?;
            }
            files.push(name);
        }
        let glibc = glibc.map(|(major, minor)| format!("{major}.{minor}"));
        let pack = Self { folder: folder.to_owned(), commit: commit()?, rustc, glibc, files };
        fs::write(folder.join(FILE), serde_json::to_string_pretty(&pack)? + "\n")?;
        Ok(pack)
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
        let files = self.files.iter().map(String::as_str);
        tar.args(files.chain([FILE]).map(|file| Path::new(name).join(file)));
        let status = tar.status().context("cannot run tar")?;
        ensure!(status.success(), "{tar:?} failed");
        let bytes = fs::metadata(&archive)?.len();
        announce(&format!("{}: {:.1} MB", archive.display(), bytes as f64 / 1e6));
        Ok(())
    }
}

/// The commit of the working tree.
pub(crate) fn commit() -> Result<String> {
    let git = |words: &[&str]| answer(Command::new("git").args(words));
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let suffix =
        if git(&["status", "--porcelain"])?.is_empty() { "" } else { ", with local changes" };
    Ok(commit.trim().to_owned() + suffix)
}

/// `moexperts`, `bench-peers`, `test-moexperts-cuda.it`.
fn name(executable: &Built) -> String {
    match executable.is_test {
        true => format!("test-{}.{}", executable.package, executable.target),
        false => executable.target.clone(),
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
        let built = |is_test, target: &str| Built {
            folder: PathBuf::new(),
            package: "moexperts-cuda".to_owned(),
            target: target.to_owned(),
            is_test,
            path: PathBuf::new(),
        };
        assert_eq!(name(&built(true, "it")), "test-moexperts-cuda.it");
        assert_eq!(name(&built(false, "moexperts")), "moexperts");
    }
}
