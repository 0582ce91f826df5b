//! Rules a compiler does not know.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, bail};

use crate::{announce, answer, words};

/// No file of code is longer than this.
const MAX_LINES: usize = 800;

/// Words that stand for work not done.
const FORBIDDEN: [&str; 4] = ["TO\u{44}O", "FIX\u{4d}E", "XX\u{58}", "#[ign\u{6f}re]"];

/// Crates in which `unsafe` must not appear at all.
const SAFE: [&str; 7] = [
    "crates/moexperts-core",
    "crates/moexperts-conformance",
    "crates/moexperts-bench",
    "crates/moexperts-cli",
    "crates/moexperts-report",
    "crates/moexperts/tests/it",
    "xtask",
];

/// Files of those crates that may have it: an allocator that counts can be written in no other way.
const UNSAFE: [&str; 2] = ["xtask/src/tidy.rs", "crates/moexperts-conformance/src/allocations.rs"];

/// The files whose words are checked, and folders whose text was written by others or long ago.
const WORDY: [&str; 7] = [".rs", ".md", ".py", ".cu", ".cuh", ".sh", ".toml"];
const FOREIGN: [&str; 4] =
    ["bench/record/", "models/", "testdata/", "crates/moexperts-report/page/"];

/// The file that may have the words, for it lists them.
const WORDS: &str = "xtask/src/words.rs";

/// Where environment variables are read: all through one type, so that `moexperts inspect` knows them.
const ENVIRONMENT: &str = "crates/moexperts-core/src/environment.rs";

/// Where a skipped test says so: past the harness, which hides what a passing test prints.
const SKIP: &str = "crates/moexperts-conformance/src/skip.rs";

/// A rule: what is wrong in a file, with numbers of lines.
type Rule = fn(file: &str, text: &str) -> Vec<(usize, String)>;

const RULES: [Rule; 6] =
    [length, forbidden, unsafe_code, banned_words, environment_variables, hidden_skips];

pub(crate) fn run(root: &Path) -> Result<()> {
    announce("tidy");
    let listed = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let listed = answer(Command::new("git").args(listed).current_dir(root))?;
    let mut problems = Vec::new();
    for file in listed.lines().filter(|file| WORDY.iter().any(|ending| file.ends_with(ending))) {
        // One that was removed is still listed.
        let Ok(text) = fs::read_to_string(root.join(file)) else { continue };
        for (line, problem) in RULES.iter().flat_map(|rule| rule(file, &text)) {
            problems.push(format!("{file}:{line}: {problem}"));
        }
    }
    if problems.is_empty() { Ok(()) } else { bail!("tidy:\n  {}", problems.join("\n  ")) }
}

fn length(file: &str, text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().count();
    let is_long = file.ends_with(".rs") && lines > MAX_LINES;
    is_long.then(|| (lines, format!("{lines} lines, at most {MAX_LINES}"))).into_iter().collect()
}

fn forbidden(file: &str, text: &str) -> Vec<(usize, String)> {
    lines_with(text, |line| {
        let word = FORBIDDEN.iter().find(|word| file.ends_with(".rs") && line.contains(**word))?;
        Some(format!("`{word}`"))
    })
}

fn unsafe_code(file: &str, text: &str) -> Vec<(usize, String)> {
    let is_safe = file.ends_with(".rs") && SAFE.iter().any(|safe| file.starts_with(safe));
    if !is_safe || UNSAFE.contains(&file) {
        return Vec::new();
    }
    lines_with(text, |line| {
        let code = line.split("//").next().unwrap_or_default();
        let uses = code.contains("unsafe ") && !code.contains("unsafe_code");
        uses.then(|| "`unsafe` in a crate that has none".to_owned())
    })
}

fn banned_words(file: &str, text: &str) -> Vec<(usize, String)> {
    if file == WORDS || FOREIGN.iter().any(|folder| file.starts_with(folder)) {
        return Vec::new();
    }
    let found = words::banned(text).into_iter();
    found.map(|(line, word, better)| (line, format!("`{word}`: say {better}"))).collect()
}

/// Tests, build scripts and tasks may read what they like; cargo's are read when they are compiled.
fn environment_variables(file: &str, text: &str) -> Vec<(usize, String)> {
    let tests = ["/tests/", "/tests.rs", "/build.rs", "moexperts-conformance/", "-emulator/"];
    let is_library = file.starts_with("crates/") && file.ends_with(".rs") && file != ENVIRONMENT;
    if !is_library || tests.iter().any(|part| file.contains(part)) {
        return Vec::new();
    }
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    lines_with(code, |line| {
        let reads = ["env::var(", "env::var_os(", "env::vars(", "env::vars_os("];
        let reads = reads.iter().any(|read| line.contains(read));
        reads.then(|| format!("`env::var`: read a `Variable` of {ENVIRONMENT}"))
    })
}

fn hidden_skips(file: &str, text: &str) -> Vec<(usize, String)> {
    if !file.ends_with(".rs") || file == SKIP || file.starts_with("xtask/") {
        return Vec::new();
    }
    lines_with(text, |line| {
        let prints = ["print!(", "println!("].iter().any(|print| line.contains(print));
        let says = prints && line.to_lowercase().contains("skipped");
        says.then(|| {
            "a skip that the harness hides: call `moexperts_conformance::skipped`".to_owned()
        })
    })
}

fn lines_with(text: &str, problem: impl Fn(&str) -> Option<String>) -> Vec<(usize, String)> {
    let lines = text.lines().enumerate();
    lines.filter_map(|(index, line)| Some((index + 1, problem(line)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    /// The lines that a rule finds fault with.
    fn lines(rule: Rule, file: &str, text: &str) -> Vec<usize> {
        rule(file, text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn banned_words_are_found_where_people_write() {
        let text = format!("fine\nno {} left", ["ro", "om"].concat());
        assert_eq!(lines(banned_words, "docs/gpu.md", &text), [2]);
        assert_eq!(lines(banned_words, "bench/record/2026.md", &text), NONE);
        assert_eq!(lines(banned_words, WORDS, &text), NONE);
    }

    #[test]
    fn variables_are_read_in_one_file() {
        let text = "let a = env::var(\"A\");\n#[cfg(test)]\nmod tests {\n env::var_os(\"B\");\n}";
        assert_eq!(lines(environment_variables, "crates/moexperts/src/a.rs", text), [1]);
        for file in [ENVIRONMENT, "crates/moexperts/tests/it/a.rs", "xtask/src/main.rs"] {
            assert_eq!(lines(environment_variables, file, text), NONE, "{file}");
        }
    }

    #[test]
    fn a_skip_is_not_printed() {
        let text = ["print", "ln!(\"skipped: no GPU\");\nskipped(\"cuda\");"].concat();
        assert_eq!(lines(hidden_skips, "crates/moexperts/tests/it/a.rs", &text), [1]);
        assert_eq!(lines(hidden_skips, SKIP, &text), NONE);
    }

    #[test]
    fn code_is_short_finished_and_safe() {
        let unsafe_line = "unsafe { read() }\n#![forbid(unsafe_code)] // unsafe code";
        assert_eq!(lines(unsafe_code, "crates/moexperts-cli/src/a.rs", unsafe_line), [1]);
        assert_eq!(lines(unsafe_code, "crates/moexperts-cpu/src/a.rs", unsafe_line), NONE);
        assert_eq!(lines(forbidden, "a.rs", &format!("fine\n// {}", FORBIDDEN[0])), [2]);
        assert_eq!(lines(length, "a.rs", &"\n".repeat(MAX_LINES + 1)), [MAX_LINES + 1]);
    }
}
