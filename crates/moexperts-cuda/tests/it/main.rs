//! The GPU's kernels and operations, on the emulator or on the GPU that `MOEXPERTS_TEST_GPU` names.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail with them")]

mod attention;
mod capture;
mod common;
mod compiles;
mod conformance;
mod errors;
mod experts;
mod hopper;
mod limits;
mod linear;
mod operations;
mod replay;
mod schedule;
mod states;
mod walk;
