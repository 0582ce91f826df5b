//! The project's own tasks: `cargo xtask ci`, `cargo xtask tidy`.

mod tidy;

use std::{env, path::Path, process::Command, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use moexperts_cpu::{ISA_VARIABLE, Isa};

const USAGE: &str = "\
usage: cargo xtask TASK

  ci     format, lints, documentation, tidy, the suite at every instruction set of this machine,
         and the first command of the README; `cargo test --workspace` comes before it
  tidy   rules a compiler does not know: lengths of files, words that must not be in the code";

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the root folder")?;
    env::set_current_dir(root)?;
    match env::args().nth(1).as_deref() {
        Some("ci") => ci(),
        Some("tidy") => tidy::run(root),
        _ => bail!("{USAGE}"),
    }
}

fn ci() -> Result<()> {
    step("format", cargo(&["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    step("lints", cargo(&clippy))?;
    let mut doc = cargo(&["doc", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    step("documentation", doc)?;
    tidy::run(Path::new("."))?;
    for isa in Isa::ALL {
        // The packages of `cargo test --workspace`, so that nothing is built again.
        let mut suite = cargo(&["test", "--quiet", "--workspace", "--lib", "--tests"]);
        suite.env(ISA_VARIABLE, isa.name());
        if isa.runs_here() {
            step(&format!("suite at {isa}"), suite)?;
        } else {
            announce(&format!("skipped: suite at {isa}: this machine has no {isa}"));
        }
    }
    let mut quick_start = cargo(&["run", "--release", "--", "generate", "The borrow checker"]);
    quick_start.args(["--max-new-tokens", "40"]);
    step("quick start", quick_start)
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

fn step(name: &str, mut command: Command) -> Result<()> {
    announce(name);
    let start = Instant::now();
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{name} failed: {command:?}");
    announce(&format!("{name}: {:.0} s", start.elapsed().as_secs_f64()));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a task says what it does")]
fn announce(text: &str) {
    println!("== {text}");
}
