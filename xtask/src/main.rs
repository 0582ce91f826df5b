//! The project's own tasks: `cargo xtask --help`.

mod bench_peers;
mod ci;
mod tidy;

use std::{env, path::Path, process::Command};

use anyhow::{Context, Result};
use clap::Parser;

/// The project's own tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Format, lints, documentation, tidy, the suite at every instruction set of this machine, and
    /// the first command of the README; `cargo test --workspace` comes before it
    Ci,
    /// Rules a compiler does not know: lengths of files, words that must not be in the code
    Tidy,
    BenchPeers(Box<bench_peers::Args>),
}

fn main() -> Result<()> {
    let task = Task::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the root folder")?;
    env::set_current_dir(root)?;
    match task {
        Task::Ci => ci::run(),
        Task::Tidy => tidy::run(root),
        Task::BenchPeers(args) => bench_peers::run(&args),
    }
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

#[expect(clippy::print_stdout, reason = "a task says what it does")]
fn announce(text: &str) {
    println!("== {text}");
}
