//! Mixture-of-Experts on an NVIDIA GPU: the device, its kernels and the three experts backends.
//!
//! Nothing of CUDA is needed to build this crate. The driver is found when a [`Cuda`] is made, and
//! NVRTC when a kernel is first compiled; compiled kernels are kept on disk.
//!
//! `kernels/` holds the sources, [`kernels`] how they are launched, [`driver`] what a GPU is asked
//! for; above these, everything is as on a processor.

mod attention;
mod cuda;
mod device;
pub mod driver;
mod elementwise;
mod experts;
pub mod kernels;
pub mod limits;
mod product;
mod routing;
mod runtime;
mod state;
mod tuning;

pub use cuda::{Cuda, CudaOptions};
pub use experts::{BatchedMm, Eager, GroupedMm, Schedule};
pub use runtime::{
    memory::{CudaMatrix, CudaRouting, CudaTensor, CudaVector},
    replay::Recording,
};
pub use state::State;
