//! The project's own tasks: `cargo xtask --help`.

mod ci;
mod gpu_check;
mod pack;
mod tidy;
mod words;

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::Value;

/// The binary of `crates/moexperts-bench` that runs the program beside others.
const BENCH_PEERS: &str = "bench-peers";

/// The project's own tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Format, tidy, lints, documentation, each feature, the tests of kernels at every instruction
    /// set of this machine, and the first command of the README; `cargo test --workspace` comes
    /// before it
    Ci,
    /// Rules a compiler does not know: lengths of files, words, what a crate must not do
    Tidy,
    GpuCheck(gpu_check::Args),
    /// Measures this program and its peers in turns; `cargo xtask bench-peers --help` says more
    #[command(disable_help_flag = true)]
    BenchPeers {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Prints which targets on a GPU the records of `bench-peers --device cuda` meet
    Targets {
        /// Their JSON files
        #[arg(required = true)]
        records: Vec<OsString>,
    },
}

fn main() -> Result<()> {
    let task = Task::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the root folder")?;
    // On a machine it was only copied to it is started in the root folder.
    if root.is_dir() {
        env::set_current_dir(root)?;
    }
    match task {
        Task::Ci => ci::run(),
        Task::Tidy => tidy::run(root),
        Task::GpuCheck(args) => gpu_check::run(&args),
        Task::BenchPeers { arguments } => bench_peers(arguments),
        Task::Targets { records } => {
            bench_peers([OsString::from("targets")].into_iter().chain(records))
        }
    }
}

/// Hands arguments on to the program that measures peers: to the one in the same pack, or else to one
/// that is built. It is built for release, as is the program that it measures.
fn bench_peers(arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    let packed = env::current_exe()?.with_file_name(BENCH_PEERS);
    let is_packed = packed.is_file() && packed.with_file_name(pack::FILE).is_file();
    let mut command = match is_packed {
        true => Command::new(packed),
        false => {
            let package = ["--package", "moexperts-bench", "--bin", BENCH_PEERS, "--"];
            cargo(&[&["run", "--quiet", "--release"], &package[..]].concat())
        }
    };
    let status = command.args(arguments).status();
    let status = status.with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{BENCH_PEERS} failed");
    Ok(())
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

/// An executable that cargo built.
#[derive(Debug)]
struct Built {
    /// The folder of its package, which has the package's name.
    folder: PathBuf,
    package: String,
    target: String,
    /// Whether it runs tests.
    is_test: bool,
    path: PathBuf,
}

/// The executables that a command of cargo builds.
fn built(mut command: Command) -> Result<Vec<Built>> {
    command.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = command.output().context("cannot run cargo")?;
    ensure!(output.status.success(), "{command:?} failed");
    let messages = String::from_utf8(output.stdout)?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    Ok(messages.filter_map(|message| executable(&message)).collect())
}

fn executable(message: &Value) -> Option<Built> {
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
    Some(Built {
        folder: folder.to_owned(),
        package: folder.file_name()?.to_string_lossy().into_owned(),
        target: message["target"]["name"].as_str()?.to_owned(),
        is_test: message["profile"]["test"].as_bool()?,
        path: message["executable"].as_str()?.into(),
    })
}

/// What a command writes to standard output.
fn answer(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed");
    Ok(String::from_utf8(output.stdout)?)
}

#[expect(clippy::print_stdout, reason = "a task says what it does")]
fn announce(text: &str) {
    println!("== {text}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_executable_is_named_after_its_package_and_target() {
        let mut message = json!({
            "reason": "compiler-artifact", "manifest_path": "/some/crates/moexperts-cuda/Cargo.toml",
            "target": {"kind": ["test"], "name": "it"}, "profile": {"test": true},
            "executable": "/some/file",
        });
        let built = executable(&message).unwrap();
        assert_eq!((built.package.as_str(), built.target.as_str()), ("moexperts-cuda", "it"));
        assert_eq!((built.is_test, built.path), (true, "/some/file".into()));
        message["executable"] = Value::Null;
        assert!(executable(&message).is_none());
    }
}
