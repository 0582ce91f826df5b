//! The programs: ours, and a script of `bench/peers` for each peer.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs, io,
    num::NonZero,
    path::{Path, PathBuf},
    process::{self, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use moexperts_bench::output::note;
use serde_json::Value;

use crate::{
    args::{Args, PeerCell, Subject},
    pack::Pack,
    peer::{OURS, Peer},
    tools::{Context as _, Problem, Result},
};

/// What the reason of a program says that had no time.
const NO_TIME_LEFT: &str = "no time was left (--budget)";

/// How often a process that has a deadline is looked at.
const POLL: Duration = Duration::from_millis(50);

/// A script stops measuring after this part of its time: what it measures then takes a while.
const BUDGET: f64 = 0.85;

/// The last lines of its errors that are shown of a program that failed.
const LAST_LINES: usize = 15;

/// Packages that say more of a GPU's programs, where they are installed.
const ALSO: [&str; 3] = ["triton", "nvidia-cublas", "nvidia-cuda-nvrtc"];

/// A program that measures itself and writes rows.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    /// The program, and what it is always given.
    command: Vec<OsString>,
    /// The interpreter of a script and the packages it needs.
    needs: Option<(PathBuf, &'static [&'static str])>,
    /// Whether it can be told to stop in time.
    takes_budget: bool,
}

impl Program {
    /// The program of a peer, or the reason why there is none.
    pub(crate) fn of_peer(peer: Peer, args: &Args) -> Result<Self, String> {
        const TORCH: &[&str] = &["torch", "transformers"];
        const PLUGIN: &[&str] = &["torch", "transformers", "moexperts"];
        if args.skip.contains(&peer) {
            return Err("left out with --skip".to_owned());
        }
        let gguf = || args.gguf.as_deref().ok_or_else(|| "no --gguf given".to_owned());
        let (python, script, packages) = match (peer, args.subject) {
            (Peer::Transformers | Peer::Compile, Subject::Layers) => {
                (&args.python, "transformers_layer.py", TORCH)
            }
            (Peer::Transformers | Peer::Compile, Subject::Models) => {
                (&args.python, "transformers_model.py", TORCH)
            }
            (Peer::Transformers | Peer::Compile, Subject::Vision) => {
                (&args.python, "transformers_vision.py", TORCH)
            }
            (Peer::Plugin, Subject::Layers) => (&args.python, "transformers_layer.py", PLUGIN),
            (Peer::Plugin, _) => (&args.python, "transformers_model.py", PLUGIN),
            (Peer::Zentorch, _) => {
                (&args.zentorch_python, "zentorch_layer.py", ["torch", "zentorch"].as_slice())
            }
            (Peer::LlamaCpp, _) => {
                (&args.llamacpp_python, "llamacpp_model.py", ["llama-cpp-python"].as_slice())
            }
            // The script needs nothing but Python.
            (Peer::IkLlamaCpp, _) => (&args.python, "llama_bench_model.py", [].as_slice()),
        };
        let mut command: Vec<OsString> =
            vec![python.into(), Path::new("bench/peers").join(script).into()];
        match peer {
            Peer::Transformers | Peer::Plugin | Peer::Compile => {
                command.extend(args.transformers_arguments(peer));
            }
            Peer::Zentorch => {}
            Peer::LlamaCpp => command.extend(["--model".into(), gguf()?.into()]),
            Peer::IkLlamaCpp => {
                let binary = args.ik_llama_bench.as_ref();
                let binary = binary.ok_or_else(|| "no --ik-llama-bench given".to_owned())?;
                command.extend(["--model".into(), gguf()?.into()]);
                command.extend(["--binary".into(), binary.into(), "--repack".into()]);
                command.extend(["--name".into(), peer.name().into()]);
            }
        }
        let takes_budget = packages.starts_with(TORCH) && args.subject != Subject::Vision;
        let needs = Some((python.clone(), packages));
        Ok(Self { name: peer.name(), command, needs, takes_budget })
    }

    /// This project's program, built for release, or the one of a pack.
    pub(crate) fn ours(args: &Args) -> Result<Self> {
        let program = match &args.pack {
            Some(folder) => Pack::open(folder)?.program(),
            None => build()?,
        };
        let mut command = vec![program.into(), "bench".into()];
        command.extend(args.own_arguments());
        Ok(Self { name: OURS, command, needs: None, takes_budget: false })
    }

    /// The versions of the packages the program needs, or the reason why it cannot run.
    pub(crate) fn versions(&self) -> Result<String, String> {
        let Some((python, packages)) = &self.needs else {
            return Ok(env!("CARGO_PKG_VERSION").to_owned());
        };
        let mut command = Command::new(python);
        let output = command.arg("bench/peers/versions.py").args(*packages).args(ALSO).output();
        let output = output.map_err(|error| format!("cannot run {}: {error}", python.display()))?;
        let known: BTreeMap<String, Option<String>> = serde_json::from_slice(&output.stdout)
            .map_err(|_| {
                let errors = String::from_utf8_lossy(&output.stderr);
                format!("{} failed: {}", python.display(), reason(output.status, &errors))
            })?;
        let mut versions = Vec::new();
        for (package, version) in known {
            match version {
                Some(version) => versions.push(format!("{package} {version}")),
                None if ALSO.contains(&package.as_str()) => {}
                None => {
                    return Err(format!("`{package}` is not installed in {}", python.display()));
                }
            }
        }
        Ok(versions.join(", "))
    }

    /// The rows of a cell, and why there are not all of them.
    ///
    /// - `deadline`: when it is ended
    pub(crate) fn run(
        &self,
        cell: &PeerCell,
        threads: NonZero<usize>,
        deadline: Option<Instant>,
    ) -> (Vec<Value>, Option<String>) {
        let once = [cell.arguments.clone()];
        let is_own = self.name == OURS && !cell.own_arguments.is_empty();
        let mut rows = Vec::new();
        for arguments in if is_own { cell.own_arguments.as_slice() } else { &once } {
            let mut command = Command::new(&self.command[0]);
            command.args(&self.command[1..]).args(arguments);
            command.args(["--threads", &threads.to_string()]);
            // For the libraries that do not ask torch.
            command.env("OMP_NUM_THREADS", threads.to_string());
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if let (true, Some(left)) = (self.takes_budget, left) {
                command.args(["--budget", &(BUDGET * left.as_secs_f64()).to_string()]);
            }
            match rows_of(command, deadline) {
                (more, None) => rows.extend(more),
                (more, problem) => {
                    rows.extend(more);
                    return (rows, problem);
                }
            }
        }
        (rows, None)
    }
}

/// The rows that a command writes, and why there are not all of them.
fn rows_of(mut command: Command, deadline: Option<Instant>) -> (Vec<Value>, Option<String>) {
    let path = |kind| env::temp_dir().join(format!("moexperts-bench-{}.{kind}", process::id()));
    let (file, errors) = (path("json"), path("txt"));
    let ended = fs::File::create(&errors).and_then(|errors| {
        command.arg("--json").arg(&file).stdout(Stdio::null()).stderr(errors);
        end_of(&mut command, deadline)
    });
    let rows = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let text = fs::read_to_string(&errors).unwrap_or_default();
    // They may not exist, and a leftover must not pass for the next answer.
    fs::remove_file(&file).ok();
    fs::remove_file(&errors).ok();
    let problem = match ended {
        Err(error) => {
            Some(format!("cannot run {}: {error}", command.get_program().to_string_lossy()))
        }
        Ok(None) => Some(NO_TIME_LEFT.to_owned()),
        Ok(Some(status)) if !status.success() => Some(reason(status, &text)),
        Ok(Some(_)) => rows.is_none().then(|| "wrote no rows".to_owned()),
    };
    if problem.is_some() {
        // One line says why to a reader of the record; who has to find the cause needs more.
        let lines: Vec<&str> = text.lines().collect();
        note(lines[lines.len().saturating_sub(LAST_LINES)..].join("\n"));
    }
    (rows.unwrap_or_default(), problem)
}

/// How a process ended; `None` if it had to be ended.
fn end_of(command: &mut Command, deadline: Option<Instant>) -> io::Result<Option<ExitStatus>> {
    let mut child = command.spawn()?;
    let Some(deadline) = deadline else { return child.wait().map(Some) };
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Builds our program; returns where it is.
fn build() -> Result<PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--package", "moexperts-cli", "--bin", OURS]);
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = cargo.output().context(|| "cannot run cargo".to_owned())?;
    if !output.status.success() {
        return Err(Problem::new(format!("{cargo:?} failed")));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    let executable =
        messages.find_map(|message: Value| Some(message["executable"].as_str()?.into()));
    executable.context(|| "cargo named no executable".to_owned())
}

/// Why a process failed: the first line of its errors that begins so, or else the last one.
fn reason(status: ExitStatus, errors: &str) -> String {
    let mut lines = errors.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.clone().find(|line| line.starts_with("error:")).or_else(|| lines.next_back());
    match (status.code(), line) {
        (Some(_), Some(line)) => line.trim_start_matches("error: ").to_owned(),
        _ => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]);
        command
    }

    #[test]
    fn rows_are_kept_of_a_program_that_is_ended_or_fails() {
        let rows = r#"printf '[{"a":1}]' > "$2";"#;
        let (kept, problem) = rows_of(shell(rows), None);
        assert_eq!((kept.len(), problem), (1, None));
        let (kept, problem) =
            rows_of(shell(&format!("{rows} echo error: of it >&2; exit 1")), None);
        assert_eq!((kept.len(), problem.as_deref()), (1, Some("of it")));
        let soon = Some(Instant::now() + Duration::from_millis(300));
        let (kept, problem) = rows_of(shell(&format!("{rows} exec sleep 60")), soon);
        assert_eq!((kept.len(), problem.as_deref()), (1, Some(NO_TIME_LEFT)));
        assert_eq!(rows_of(shell("true"), None).1.as_deref(), Some("wrote no rows"));
    }
}
