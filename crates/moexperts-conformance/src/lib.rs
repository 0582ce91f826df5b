//! Cases and tolerances every experts backend must pass, on any device.
//!
//! A backend of your own, in five lines of a test (here with a built-in one in its place):
//!
//! ```
//! use moexperts_cpu::{Cpu, CpuOptions, GroupedMm};
//!
//! let cpu = Cpu::new(CpuOptions::default())?;
//! let report = moexperts_conformance::run(&GroupedMm, &cpu)?;
//! assert!(report.passed > 0, "{report}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`cases`]: shapes, routings, activations, layouts and formats as data; [`arbitrary_case`]
//!   draws more of them.
//! - [`Tolerance`]: how far from the f64 reference a result may be, derived step by step.
//! - [`run`], [`check_case`], [`same_bits`], [`agree`], [`agree_exactly`]: the checks.
//! - [`router_cases`], [`run_routers`]: the same for the routers of a device.
//! - [`check_operation`]: one operation of a device, which a test walks over all of them with.
//! - [`skipped`]: what a test calls that lacks its hardware.

#![forbid(unsafe_code)]

mod case;
mod cases;
mod layer;
mod operations;
mod random;
mod report;
mod router;
mod skip;
mod suite;
mod tolerance;

pub use case::{Case, GateUpLayout, Routes, RoutingWeights, Values};
pub use cases::{arbitrary_case, cases};
pub use layer::Layer;
pub use operations::check_operation;
pub use report::{Failure, Outcome, Problem, Refusal, Report};
pub use router::{
    RouterCase, RouterFailure, RouterInputs, RouterLogits, RouterReport, router_cases, run_routers,
};
pub use skip::{REQUIRE_VARIABLE, skipped};
pub use suite::{agree, agree_exactly, check_case, run, same_bits};
pub use tolerance::{Bounded, Mismatch, RouterTolerance, Tolerance};
