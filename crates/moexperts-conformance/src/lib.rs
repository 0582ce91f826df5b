//! Cases and tolerances every experts backend must pass, on any device.
//!
//! The test of a backend, here of a built-in one:
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
//! - [`Tolerance`]: the allowed distance of a result from the f64 reference, derived step by step.
//! - [`run`], [`check_case`], [`same_bits`], [`agree`], [`agree_exactly`]: the checks.
//! - [`router_cases`], [`run_routers`]: the same for the routers of a device.
//! - [`check_operation`]: the check of one operation of a device; a test calls it for all of them.
//! - [`skipped`]: for a test without its hardware.
//! - [`CountingAllocator`]: for a test of code that must not allocate.
//! - [`Random`]: numbers that a seed repeats.

#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "an allocator is unsafe to implement; this one only counts")]
mod allocations;
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

pub use allocations::CountingAllocator;
pub use case::{Case, GateUpLayout, Routes, RoutingWeights, Values};
pub use cases::{arbitrary_case, cases};
pub use layer::Layer;
pub use operations::check_operation;
pub use random::Random;
pub use report::{Failure, Outcome, Problem, Refusal, Report};
pub use router::{
    RouterCase, RouterFailure, RouterInputs, RouterLogits, RouterReport, router_cases, run_routers,
};
pub use skip::{REQUIRE_VARIABLE, skipped};
pub use suite::{agree, agree_exactly, check_case, run, same_bits};
pub use tolerance::{Bounded, Mismatch, Tolerance, router::RouterTolerance};

/// Compiles and runs the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
