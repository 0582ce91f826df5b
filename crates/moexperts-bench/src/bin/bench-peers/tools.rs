//! Errors as text, lines for the user, and the answers of other programs.

use std::{error::Error, fmt, process::Command};

/// A result with a [`Problem`].
pub(crate) type Result<T, E = Problem> = std::result::Result<T, E>;

/// What went wrong, in the words that are shown: nothing here handles an error but by ending.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Problem {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }
}

impl<E: Error> From<E> for Problem {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Says what was being done when something went wrong.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Error> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Problem(format!("{}: {error}", what())))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.ok_or_else(|| Problem(what()))
    }
}

/// The commit of the working tree.
pub(crate) fn commit() -> Result<String> {
    let commit = first_line(Command::new("git").args(["rev-parse", "--short=12", "HEAD"]))?;
    let changes = Command::new("git").args(["status", "--porcelain"]).output()?;
    let suffix = if changes.stdout.is_empty() { "" } else { ", with local changes" };
    Ok(commit + suffix)
}

pub(crate) fn first_line(command: &mut Command) -> Result<String> {
    let output = command.output().context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        return Err(Problem::new(format!("{command:?} failed")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

#[expect(clippy::print_stdout, reason = "a task says what it does")]
pub(crate) fn announce(text: &str) {
    println!("== {text}");
}

#[expect(clippy::print_stdout, reason = "the result of a task")]
pub(crate) fn print(text: &str) {
    print!("{text}");
}
