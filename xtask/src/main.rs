//! The project's own tasks: `cargo xtask --help`.

mod bench_peers;
mod ci;
mod gpu_check;
mod pack;
mod tidy;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::Value;

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
    GpuCheck(gpu_check::Args),
    /// Prints which targets on a GPU the records of `bench-peers --device cuda` meet
    Targets {
        /// Their JSON files
        #[arg(required = true)]
        records: Vec<PathBuf>,
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
        Task::BenchPeers(args) => bench_peers::run(&args),
        Task::GpuCheck(args) => gpu_check::run(&args),
        Task::Targets { records } => bench_peers::targets(&records),
    }
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

/// An executable that cargo built.
#[derive(Debug)]
struct Built {
    package: String,
    target: String,
    /// `bin`, `test`.
    kind: String,
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
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let target = message.get("target")?;
    let folder = Path::new(message.get("manifest_path")?.as_str()?).parent()?;
    Some(Built {
        package: folder.file_name()?.to_string_lossy().into_owned(),
        target: text(target.get("name")?)?,
        kind: text(target.get("kind")?.get(0)?)?,
        path: message.get("executable")?.as_str()?.into(),
    })
}

fn first_line(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed");
    Ok(String::from_utf8(output.stdout)?.lines().next().unwrap_or_default().to_owned())
}

#[expect(clippy::print_stdout, reason = "a task says what it does")]
fn announce(text: &str) {
    println!("== {text}");
}

#[expect(clippy::print_stdout, reason = "what a task was asked for")]
fn print(text: &str) {
    print!("{text}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_executable_is_named_after_its_package_and_target() {
        let mut message = json!({
            "reason": "compiler-artifact", "manifest_path": "/some/crates/moexperts-cuda/Cargo.toml",
            "target": {"kind": ["test"], "name": "conformance"}, "executable": "/some/file",
        });
        let built = executable(&message).unwrap();
        assert_eq!(
            (built.package.as_str(), built.target.as_str()),
            ("moexperts-cuda", "conformance")
        );
        assert_eq!((built.kind.as_str(), built.path), ("test", "/some/file".into()));
        message["executable"] = Value::Null;
        assert!(executable(&message).is_none());
    }
}
