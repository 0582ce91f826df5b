//! What CI runs after the tests.
//!
//! Most of its time is compiling, so a step takes what an earlier one built: features differ between
//! selections of packages, and with them everything below, so that the tests of the kernels are run as
//! `cargo test --workspace` built them.

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Built, announce, answer, built, cargo, tidy};

/// The environment variable that lowers the instruction set.
const ISA_VARIABLE: &str = "MOEXPERTS_ISA";

/// The crate whose features are checked one by one.
const WITH_FEATURES: &str = "moexperts";

pub(crate) fn run() -> Result<()> {
    step("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    tidy::run(Path::new("."))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    step("lints", &mut cargo(&clippy))?;
    features()?;
    let mut doc = cargo(&["doc", "--workspace", "--no-deps"]);
    step("documentation", doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    instruction_sets()?;
    let mut quick_start = cargo(&["run", "--release", "--", "generate", "The borrow checker"]);
    step("quick start", quick_start.args(["--max-new-tokens", "40"]))
}

/// Checks the library without features, and with each alone. Without its tests: their dependencies
/// would be compiled anew for each of them.
fn features() -> Result<()> {
    let mut metadata = cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&answer(&mut metadata)?)?;
    for feature in [None].into_iter().chain(features_of(&metadata).into_iter().map(Some)) {
        let mut check = cargo(&["clippy", "--package", WITH_FEATURES, "--no-default-features"]);
        if let Some(feature) = &feature {
            check.args(["--features", feature]);
        }
        let name = feature.as_deref().unwrap_or("no feature");
        step(&format!("library with {name}"), check.args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}

/// The features that are no selection of others.
fn features_of(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let features = packages
        .filter(|package| package["name"] == WITH_FEATURES)
        .filter_map(|package| package["features"].as_object());
    let names = features.flat_map(|features| features.keys());
    names.filter(|name| *name != "default").cloned().collect()
}

/// Runs the tests whose results depend on the instruction set with each set of this machine but the
/// best, which `cargo test` used.
fn instruction_sets() -> Result<()> {
    let all = built(cargo(&["test", "--workspace", "--no-run"]))?;
    let program = all.iter().find(|built| !built.is_test && built.target == "moexperts");
    let program = program.context("cargo built no program")?;
    let mut inspect = Command::new(&program.path);
    let said = answer(inspect.args(["inspect", "--device", "cpu"]).env_remove(ISA_VARIABLE))?;
    let sets = sets(&said).context("`moexperts inspect` names no instruction sets")?;
    announce(&format!("instruction sets of this machine: {}", sets.join(", ")));
    for isa in &sets[..sets.len() - 1] {
        for test in all.iter().filter(|built| depends_on_isa(built)) {
            let mut suite = Command::new(&test.path);
            // As cargo runs it. A GPU's kernels know no instruction set of the host.
            suite.current_dir(&test.folder).args(["--quiet", "--skip", "cuda::"]);
            let name = format!("{} {} at {isa}", test.package, test.target);
            step(&name, suite.env(ISA_VARIABLE, isa))?;
        }
    }
    Ok(())
}

fn depends_on_isa(built: &Built) -> bool {
    let names = (built.package.as_str(), built.target.as_str());
    built.is_test
        && matches!(names, ("moexperts-cpu" | "moexperts-conformance", _) | ("moexperts", "it"))
}

/// The sets that `moexperts inspect` names, the best last.
fn sets(inspected: &str) -> Option<Vec<&str>> {
    let line = inspected.lines().find(|line| line.trim_start().starts_with("instruction set "))?;
    let (_, sets) = line.split_once(" of ")?;
    Some(sets.split(", ").collect())
}

fn step(name: &str, command: &mut Command) -> Result<()> {
    announce(name);
    let start = Instant::now();
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{name} failed: {command:?}");
    announce(&format!("{name}: {:.0} s", start.elapsed().as_secs_f64()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn instruction_sets_are_read_from_inspect() {
        let said = "Machine\n  processor        some\n  instruction set  avx512 of portable, avx2, avx512\n";
        assert_eq!(sets(said).unwrap(), ["portable", "avx2", "avx512"]);
        assert_eq!(sets("Machine\n"), None);
    }

    #[test]
    fn every_feature_is_checked_but_the_default() {
        let package =
            |name: &str| json!({"name": name, "features": {"default": ["hub"], "hub": []}});
        let metadata = json!({"packages": [package("other"), package(WITH_FEATURES)]});
        assert_eq!(features_of(&metadata), ["hub"]);
    }
}
