//! Rules a compiler does not know.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

/// No file of code is longer than this.
const MAX_LINES: usize = 800;

/// Words that stand for work not done.
const FORBIDDEN: [&str; 4] = ["TO\u{44}O", "FIX\u{4d}E", "XX\u{58}", "#[ign\u{6f}re]"];

/// Crates in which `unsafe` must not appear at all.
const SAFE: [&str; 6] = [
    "crates/moexperts-core",
    "crates/moexperts-conformance",
    "crates/moexperts-cli",
    "crates/moexperts-report",
    "crates/moexperts/tests/it",
    "xtask",
];

pub(crate) fn run(root: &Path) -> Result<()> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])
        .current_dir(root)
        .output()
        .context("cannot run git")?;
    let mut problems = Vec::new();
    for file in String::from_utf8(listed.stdout)?.lines() {
        let Ok(text) = fs::read_to_string(root.join(file)) else { continue };
        let lines = text.lines().count();
        if lines > MAX_LINES {
            problems.push(format!("{file}: {lines} lines, at most {MAX_LINES}"));
        }
        for (index, line) in text.lines().enumerate() {
            let place = format!("{file}:{}", index + 1);
            for word in FORBIDDEN.iter().filter(|word| line.contains(**word)) {
                problems.push(format!("{place}: `{word}`"));
            }
            let code = line.split("//").next().unwrap_or_default();
            let uses_unsafe = code.contains("unsafe ") && !code.contains("unsafe_code");
            if uses_unsafe
                && SAFE.iter().any(|safe| file.starts_with(safe))
                && !file.ends_with("tidy.rs")
            {
                problems.push(format!("{place}: `unsafe` in a crate that has none"));
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { bail!("tidy:\n  {}", problems.join("\n  ")) }
}
