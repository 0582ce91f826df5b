//! Runs the CUDA kernels of moexperts on the host, for tests: the same sources, compiled as C++17 by
//! the build script, behind [`Driver`](moexperts_cuda::driver::Driver).
//!
//! `emulated/cuda.h` stands for the language, `emulated/ptx.cuh` for the kernels' `ptx.cuh`, and the
//! rest of `emulated` is the runtime. A block runs on one thread of the host, each of its threads on
//! a stack of its own; one goes on until it has to wait for others. The blocks of a launch are spread
//! over several threads of the host, which is a Unix on x86-64 or AArch64 with g++ or clang++.
//!
//! A module that does not compile is a warning of the build script, and an error of its launches and of
//! this crate's tests: those who work on other modules can go on.
//!
//! # What is emulated
//! Results, as the PTX ISA has them: warp primitives, barriers, `cp.async`, `ldmatrix`, `mma`,
//! `mbarrier`, the tensor memory accelerator, `wgmma`. Sums of tensor cores are in f32, in an order of
//! their own; products and sums are never one operation but by `fmaf`.
//!
//! # What makes a launch fail
//! - Threads that wait for ever, or at different `__syncthreads`: who waits where is told. A mask of
//!   lanes that names one that has returned.
//! - Addresses that are no memory or not aligned (clang++ does not check copies of structs); what is written up to 256 bytes beyond an
//!   allocation, or beyond the block's shared memory; instructions of `ptx.cuh` with an address that is
//!   not of their kind of memory.
//! - Shifts by too many bits, elements beyond a local array, integers that overflow or are divided by
//!   zero.
//! - Misused barriers, copies that nobody waits for, fences that are missing between `cp.async` and
//!   `wgmma`, before `wgmma`, after `mbarrier.init` and before a tensor map.
//! - A launch that is not as the kernel was compiled, or that the GPU could not run.
//!
//! # What makes results wrong
//! Memory is NaN, in every type, until it is written; local variables are far off. A missing barrier
//! shows in some [`Order`], a missing wait with [`Copies::Late`], a buffer that is overwritten too
//! early with [`Copies::Early`].
//!
//! # What is not emulated
//! - Time, caches, banks, registers, how many blocks fit.
//! - The order in which other threads see what one wrote: each sees all of it. Blocks that wait for
//!   others may wait for ever.
//! - Fences between ordinary writes and the accelerator's reads, other than those above.
//! - Static shared memory keeps what the last block left in it.
//! - Threads of a warp that run together: between two primitives each runs by itself.

mod devices;
mod emulator;
mod ffi;

pub use devices::{test_devices, test_gpu};
pub use emulator::{Copies, Emulator, EmulatorOptions, Order, compiled_kernels, emulated};
