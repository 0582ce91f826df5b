//! The programs: ours, and a script of `bench/peers` for each peer.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    process::{self, Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Args, Cell, Subject};
use crate::cargo;

/// The name of this project's program.
pub(super) const OURS: &str = "moexperts";

/// A program that measures itself and writes rows.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) name: &'static str,
    /// The program, and what it is always given.
    command: Vec<OsString>,
    /// The interpreter of a script and the packages it needs.
    needs: Option<(PathBuf, &'static [&'static str])>,
}

/// A peer that `--skip` can leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Peer {
    Transformers,
    /// transformers under torch.compile
    Compile,
    Zentorch,
    #[value(name = "llamacpp")]
    LlamaCpp,
    #[value(name = "ik-llamacpp")]
    IkLlamaCpp,
}

impl Peer {
    pub(super) const LAYERS: [Self; 3] = [Self::Transformers, Self::Compile, Self::Zentorch];
    pub(super) const MODELS: [Self; 4] =
        [Self::Transformers, Self::Compile, Self::LlamaCpp, Self::IkLlamaCpp];
    pub(super) const VISION: [Self; 2] = [Self::Transformers, Self::Compile];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Transformers => "transformers",
            Self::Compile => "transformers, compiled",
            Self::Zentorch => "zentorch",
            Self::LlamaCpp => "llama.cpp",
            Self::IkLlamaCpp => "ik_llama.cpp",
        }
    }

    /// The program, or the reason why there is none.
    pub(super) fn program(self, args: &Args) -> Result<Program, String> {
        const TORCH: &[&str] = &["torch", "transformers"];
        if args.skip.contains(&self) {
            return Err("left out with --skip".to_owned());
        }
        let gguf = || args.gguf.as_deref().ok_or_else(|| "no --gguf given".to_owned());
        let (python, script, packages) = match (self, args.subject) {
            (Self::Transformers | Self::Compile, Subject::Layers) => {
                (&args.python, "transformers_layer.py", TORCH)
            }
            (Self::Transformers | Self::Compile, Subject::Models) => {
                (&args.python, "transformers_model.py", TORCH)
            }
            (Self::Transformers | Self::Compile, Subject::Vision) => {
                (&args.python, "transformers_vision.py", TORCH)
            }
            (Self::Zentorch, _) => {
                (&args.zentorch_python, "zentorch_layer.py", ["torch", "zentorch"].as_slice())
            }
            (Self::LlamaCpp, _) => {
                (&args.llamacpp_python, "llamacpp_model.py", ["llama-cpp-python"].as_slice())
            }
            // The script needs nothing but Python.
            (Self::IkLlamaCpp, _) => (&args.python, "llama_bench_model.py", [].as_slice()),
        };
        let mut command: Vec<OsString> =
            vec![python.into(), Path::new("bench/peers").join(script).into()];
        match self {
            Self::Transformers | Self::Compile => {
                command.extend(args.model_arguments());
                if self == Self::Compile {
                    command.extend(["--compile".into(), (&args.compile_mode).into()]);
                }
            }
            Self::Zentorch => {}
            Self::LlamaCpp => command.extend(["--model".into(), gguf()?.into()]),
            Self::IkLlamaCpp => {
                let binary = args.ik_llama_bench.as_ref();
                let binary = binary.ok_or_else(|| "no --ik-llama-bench given".to_owned())?;
                command.extend(["--model".into(), gguf()?.into()]);
                command.extend(["--binary".into(), binary.into(), "--repack".into()]);
                command.extend(["--name".into(), self.name().into()]);
            }
        }
        Ok(Program { name: self.name(), command, needs: Some((python.clone(), packages)) })
    }
}

impl Program {
    /// This project's program, built for release.
    pub(super) fn ours(args: &Args) -> Result<Self> {
        let words = match args.subject {
            Subject::Layers => {
                ["layer", "--experts-implementation", "grouped_mm,batched_mm"].as_slice()
            }
            Subject::Models => &["model", "--batch", "1", "--experts-implementation", "grouped_mm"],
            Subject::Vision => &["vision"],
        };
        let mut command = vec![build()?.into(), "bench".into()];
        command.extend(words.iter().map(OsString::from));
        command.extend(args.model_arguments());
        Ok(Self { name: OURS, command, needs: None })
    }

    /// The versions of the packages the program needs, or the reason why it cannot run.
    pub(super) fn versions(&self) -> Result<String, String> {
        let Some((python, packages)) = &self.needs else {
            return Ok(env!("CARGO_PKG_VERSION").to_owned());
        };
        let output = Command::new(python).arg("bench/peers/versions.py").args(*packages).output();
        let output = output.map_err(|error| format!("cannot run {}: {error}", python.display()))?;
        let known: BTreeMap<String, Option<String>> = serde_json::from_slice(&output.stdout)
            .map_err(|_| format!("{} failed: {}", python.display(), reason(&output)))?;
        let mut versions = Vec::new();
        for (package, version) in known {
            let missing = || format!("`{package}` is not installed in {}", python.display());
            versions.push(format!("{package} {}", version.ok_or_else(missing)?));
        }
        Ok(versions.join(", "))
    }

    /// The rows of a cell, or the reason why there are none.
    pub(super) fn run(&self, cell: &Cell, threads: NonZero<usize>) -> Result<Vec<Value>, String> {
        let file = env::temp_dir().join(format!("moexperts-bench-peers-{}.json", process::id()));
        let output = Command::new(&self.command[0])
            .args(&self.command[1..])
            .args(&cell.arguments)
            .args(["--threads", &threads.to_string(), "--json"])
            .arg(&file)
            // For the libraries that do not ask torch.
            .env("OMP_NUM_THREADS", threads.to_string())
            .stdout(Stdio::null())
            .output()
            .map_err(|error| format!("cannot run {}: {error}", self.command[0].display()))?;
        let text = fs::read(&file);
        // It may not exist, and a leftover must not pass for the next answer.
        fs::remove_file(&file).ok();
        if !output.status.success() {
            return Err(reason(&output));
        }
        let text = text.map_err(|error| format!("wrote no rows: {error}"))?;
        serde_json::from_slice(&text).map_err(|error| format!("wrote no rows: {error}"))
    }
}

/// Builds our program; returns where it is.
fn build() -> Result<PathBuf> {
    let mut command = cargo(&["build", "--release", "--package", "moexperts-cli"]);
    command.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = command.output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the program does not build");
    let messages = String::from_utf8(output.stdout)?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
        .context("cargo named no executable")
}

/// Why a process failed: the first line of its errors that begins so, or else the last one.
fn reason(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    let mut lines = errors.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.clone().find(|line| line.starts_with("error:")).or_else(|| lines.next_back());
    match (output.status.code(), line) {
        (Some(_), Some(line)) => line.trim_start_matches("error: ").to_owned(),
        _ => output.status.to_string(),
    }
}
