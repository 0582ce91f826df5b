//! What CI runs after the tests.

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Context, Result, ensure};
use moexperts_cpu::{ISA_VARIABLE, Isa};

use crate::{announce, cargo, tidy};

pub(crate) fn run() -> Result<()> {
    step("format", cargo(&["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    step("lints", cargo(&clippy))?;
    let mut doc = cargo(&["doc", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    step("documentation", doc)?;
    tidy::run(Path::new("."))?;
    for isa in Isa::ALL {
        let mut suite = cargo(&["test", "--quiet", "--workspace", "--lib", "--tests"]);
        // These depend on no instruction set, and would take longer than what cargo builds anew without
        // them.
        suite.args(["--exclude", "moexperts-cuda", "--exclude", "moexperts-cuda-emulator"]);
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

fn step(name: &str, mut command: Command) -> Result<()> {
    announce(name);
    let start = Instant::now();
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{name} failed: {command:?}");
    announce(&format!("{name}: {:.0} s", start.elapsed().as_secs_f64()));
    Ok(())
}
