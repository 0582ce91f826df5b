//! `cargo xtask gpu-check`: everything that has to run on a GPU, in one command.

use std::{ffi::OsString, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{
    built, cargo,
    pack::{self, Pack, Packed},
};

/// The tests that run on a GPU: package, target, and the part of their names that says so.
const TESTS: [(&str, &str, Option<&str>); 2] =
    [("moexperts-cuda", "it", None), ("moexperts", "it", Some("cuda"))];

/// Tests and measures on a GPU: the suite, the sanitizer, layers and models beside their peers.
///
/// Builds the programs and the tests, copies them into a folder, and runs bench/gpu/check.sh with
/// it. That script needs nothing but the folder, or its archive, and this repository: it runs as well
/// on a machine without cargo.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask gpu-check
  cargo xtask gpu-check -- --only tests,generate
  cargo xtask gpu-check --pack-only
  bench/gpu/check.sh target/gpu-check.tar.gz --only layers --quick")]
pub(crate) struct Args {
    /// The folder of the executables
    #[arg(long, default_value = "target/gpu-check")]
    folder: PathBuf,

    /// Builds and copies them, writes an archive of the folder beside it, and stops there
    #[arg(long)]
    pack_only: bool,

    /// What bench/gpu/check.sh is given beside the folder; `--help` says what there is
    #[arg(last = true)]
    check: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let pack = Pack::write(&args.folder, &executables()?)?;
    if args.pack_only {
        return pack.archive();
    }
    let mut check = Command::new("bash");
    check.arg("bench/gpu/check.sh").arg(&args.folder).args(&args.check);
    let status = check.status().context("cannot run bash")?;
    ensure!(status.success(), "the check failed; its summary says where");
    Ok(())
}

/// The programs, and the tests that run on a GPU.
fn executables() -> Result<Vec<Packed>> {
    let mut programs = cargo(&["build", "--release", "--package", "moexperts-cli"]);
    programs.args(["--package", "moexperts-bench", "--package", "xtask", "--bins"]);
    // They leave the checkout, which the program reads its commit from.
    programs.env("MOEXPERTS_COMMIT", pack::commit()?);
    let programs = built(programs)?.into_iter();
    let mut packed: Vec<_> = programs.map(|built| Packed { built, filter: None }).collect();
    for (package, target, filter) in TESTS {
        let test = ["test", "--no-run", "--release", "--package", package, "--test", target];
        let tests = built(cargo(&test))?.into_iter().filter(|built| built.is_test);
        packed.extend(tests.map(|built| Packed { built, filter }));
    }
    Ok(packed)
}
