//! `moexperts bench`: how fast the experts backends are, on a layer or in a model, and how fast a
//! vision tower is, set against what the machine can do at most; and reports of it.
//!
//! - [`args`]: the command lines
//! - `layer`, `model`, `vision`, `sweep`, `report`: a benchmark each, from its arguments to its rows
//! - `generation`, `random_model`, `backends`: what several of them measure
//! - [`hardware`], `limits`: devices as the program shows them, and what they can do at most
//! - [`output`]: tables, files, progress
//! - `provenance`: which commit a program was built from
//!
//! The program `moexperts` has these as its command `bench`, and shares arguments and output with its
//! other commands. The binary `bench-peers` (`src/bin/bench-peers`) runs the program beside others.

#![forbid(unsafe_code)]
#![deny(clippy::print_stderr)]

/// An expression, evaluated on an [`AnyDevice`](moexperts::AnyDevice) as the type that it is.
#[doc(hidden)]
#[macro_export]
macro_rules! on_device {
    ($found:expr, $device:ident => $run:expr) => {
        match $found {
            moexperts::AnyDevice::Cpu($device) => $run,
            moexperts::AnyDevice::Cuda($device) => $run,
        }
    };
}

pub mod args;
mod backends;
mod error;
mod free_memory;
mod generation;
pub mod hardware;
pub mod interrupts;
mod layer;
mod limits;
mod load;
mod model;
pub mod output;
mod pool;
mod provenance;
mod random;
mod random_model;
mod report;
mod runs;
mod sweep;
#[cfg(test)]
mod tests;
mod vision;

use std::ffi::OsString;

pub use self::{
    error::{BenchError, model_hint},
    load::{DefaultModel, load, open},
};
use crate::args::BenchCommand;

/// Measures, or reports what was measured.
///
/// - `words`: the command line it stands in, for files of results
/// - `default`: the model of a command line that names none
///
/// # Errors
/// If what was chosen cannot run, or its results cannot be written.
pub fn run(
    command: &BenchCommand,
    words: &[OsString],
    default: DefaultModel,
) -> Result<(), BenchError> {
    match command {
        BenchCommand::Layer(args) => layer::run(args),
        BenchCommand::Model(args) => model::run(args, default),
        BenchCommand::Vision(args) => vision::run(args, default),
        BenchCommand::Sweep(args) => sweep::run(args, words, default),
        BenchCommand::Report(args) => report::run(args),
    }
}
