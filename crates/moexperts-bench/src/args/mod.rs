//! The command lines: one file for each benchmark, and what they share with the other commands.

mod common;
mod compile;
mod device;
mod layer;
mod load;
mod model;
mod report;
mod shape;
mod sweep;
mod vision;

use clap::Subcommand;

#[cfg(test)]
pub(crate) use self::shape::Shapes;
pub use self::{
    compile::{CompileLimits, CompileModes, Compiling},
    device::DeviceArgs,
    layer::BenchLayerArgs,
    load::{DTypeArg, LoadArgs, SourceArgs},
    model::BenchModelArgs,
    report::BenchReportArgs,
    sweep::BenchSweepArgs,
    vision::BenchVisionArgs,
};
pub(crate) use self::{layer::RoutingKind, shape::LayerShape, vision::ImageSize};

/// What is measured.
#[expect(missing_docs, reason = "the help of a command is that of its arguments")]
#[derive(Debug, Subcommand)]
#[non_exhaustive]
pub enum BenchCommand {
    Layer(BenchLayerArgs),
    Model(BenchModelArgs),
    Vision(BenchVisionArgs),
    Sweep(BenchSweepArgs),
    Report(BenchReportArgs),
}
