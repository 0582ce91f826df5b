//! Mixture-of-Experts on an NVIDIA GPU: the device, its kernels and the three experts backends.
//!
//! This crate is built without CUDA. The driver is loaded when a [`Cuda`] is made, and NVRTC when a
//! kernel is first compiled; compiled kernels are cached on disk.
//!
//! `kernels/` holds the sources, [`kernels`] lists them and how they are launched, [`driver`] is the
//! interface to a GPU; the folders above these are those of the CPU crate.
//!
//! # Safety
//! A launch is `unsafe`: its parameters hold addresses, and a kernel is trusted to access what they
//! point to. Each has a comment that names the check or the allocation that makes it right.

mod attention;
mod cuda;
mod device;
pub mod driver;
mod elementwise;
mod environment;
mod error;
mod experts;
pub mod kernels;
pub mod limits;
mod product;
mod routing;
mod runtime;
mod state;
mod tuning;

pub use cuda::{Cuda, CudaOptions};
pub use environment::VARIABLES;
pub use experts::{BatchedMm, Eager, GroupedMm, Schedule};
pub use runtime::{
    buffer::CudaBuffer,
    memory::{CudaMatrix, CudaRouting, CudaTensor, CudaVector},
    replay::Recording,
};
pub use state::State;
