//! The integration tests of the CPU, one binary; `tests/allocations.rs` is the other.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail with them")]

mod attention;
mod broken_backends;
mod common;
mod conformance;
mod knobs;
mod operations;
mod rows;
mod states;
