//! The `moexperts` program: reads the command line, runs a command, reports what went wrong.
//!
//! It is a library too, so that another program can have all commands with additional backends:
//!
//! ```no_run
//! use std::process::ExitCode;
//! # use moexperts::{Cpu, ExpertsBackend, ExpertsCall, ExpertsInterface, ExpertsSpec, core};
//! # #[derive(Debug)]
//! # struct MyBackend;
//! # impl ExpertsBackend<Cpu> for MyBackend {
//! #     fn name(&self) -> &str { "my_backend" }
//! #     fn check(&self, _: &ExpertsSpec, _: &Cpu) -> core::Result<()> { Ok(()) }
//! #     fn forward(&self, _: ExpertsCall<'_, Cpu>, _: &mut core::Tensor) -> core::Result<()> { Ok(()) }
//! # }
//!
//! fn main() -> ExitCode {
//!     ExpertsInterface::register(MyBackend).expect("the name is free");
//!     // `bench sweep` measures it with the rest, `--experts-implementation my_backend` runs it.
//!     moexperts_cli::run()
//! }
//! ```
//!
//! Invariant: standard output carries the result of a command and nothing else.

#![forbid(unsafe_code)]
// `eprintln!` panics where standard error is closed.
#![deny(clippy::print_stderr)]

mod args;
mod commands;
mod embedded;
mod error;
mod summary;

use std::{env, ffi::OsString, io::stderr, process::ExitCode};

use clap::Parser as _;
use moexperts::inspect::Variable;
use moexperts_bench::{BenchError, interrupts, output::note};
use tracing_subscriber::{
    Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{
    args::Args,
    error::{CliError, report},
};

/// The environment variable that chooses what is logged.
const LOG_VARIABLE: Variable =
    Variable::new("RUST_LOG", "what is logged to standard error, as moexperts=debug; warn");

/// Does what the command line says, and reports on standard error what went wrong.
pub fn run() -> ExitCode {
    run_from(env::args_os())
}

/// The same for a command line that is given: the name of the program, then its arguments. It may be
/// called again. A subscriber of `tracing` or a handler of Ctrl-C that is there already stays.
pub fn run_from(words: impl IntoIterator<Item = impl Into<OsString>>) -> ExitCode {
    let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
    let args = match Args::try_parse_from(&words) {
        Ok(args) => args,
        Err(error) => {
            // Help and mistakes alike, each to where it belongs.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(u8::MAX));
        }
    };
    match start_log(args.verbose).and_then(|()| commands::run(args.command, &words)) {
        // The reader of the output has what it wanted.
        Ok(()) | Err(CliError::Bench(BenchError::BrokenPipe)) => ExitCode::SUCCESS,
        Err(CliError::Bench(error @ BenchError::Interrupted { .. })) => {
            note(&error);
            ExitCode::from(interrupts::EXIT_CODE)
        }
        Err(error) => {
            note(report(&error, error.hint()));
            ExitCode::FAILURE
        }
    }
}

/// Logs to standard error what `RUST_LOG` says, or else what the number of `-v` flags does.
fn start_log(verbose: u8) -> Result<(), CliError> {
    let directives = match LOG_VARIABLE.get().map(OsString::into_string) {
        Some(Ok(directives)) if !directives.trim().is_empty() => directives,
        _ => ["warn", "warn,moexperts=info", "warn,moexperts=debug"][usize::from(verbose.min(2))]
            .to_owned(),
    };
    let filter: Targets = directives.parse().map_err(|source| CliError::Log {
        variable: LOG_VARIABLE.name,
        got: directives,
        source,
    })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr);
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
    // One that is there already stays: of an earlier call, or of the calling program.
    let _ = subscriber.try_init();
    Ok(())
}
