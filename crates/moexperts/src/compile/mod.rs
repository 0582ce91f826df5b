//! Compiling: passes over the graph of a model's forward, and plans of what comes of it.
//!
//! `fuse` makes one operation of neighbours, `plan` is the program of such a graph for a `class` of
//! shapes, and `autotune` chooses the settings of its kernels, which `choices` keeps on disk. A plan
//! is made at the first forward of its class, or when the model is compiled. It is executed like any
//! other program. `compiled` keeps the plans of a model, `explain` reports on them.

mod autotune;
mod choices;
mod class;
mod compiled;
mod explain;
mod fuse;
mod options;
mod plan;
mod same_arc;
mod subject;

use moexperts_core::Variable;

pub(crate) use self::{
    class::ShapeClass,
    compiled::{Compiled, PhaseBackends},
    plan::{LastPlan, Plan},
};
pub use self::{
    explain::{Break, CompileReport, Explanation, PlanExplanation, StepExplanation},
    options::{CompileMode, CompileOptions},
};
use crate::disk;

/// The environment variables that compiling reads.
pub const VARIABLES: &[Variable] = &[disk::XDG_CACHE_HOME, disk::HOME];
