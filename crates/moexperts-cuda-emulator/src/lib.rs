//! Runs the CUDA kernels of moexperts on the host, for tests: the same sources, compiled as C++17 by
//! the build script, behind [`Driver`](moexperts_cuda::driver::Driver).
//!
//! `emulated/cuda.h` replaces the language, `emulated/ptx.cuh` the kernels' `ptx.cuh`, and the rest of
//! `emulated` is the runtime. A block runs on one thread of the host, and each of its threads on a separate
//! stack until it has to wait for others. The blocks of a launch are spread over several threads of the
//! host, which is a Unix on x86-64 or AArch64 with g++ or clang++.
//!
//! A module that does not compile is a warning of the build script, and an error of its launches and of
//! this crate's tests, so that work on other modules is not held up.
//!
//! # What is emulated
//! Results, as the PTX ISA has them: warp primitives, barriers, `cp.async`, `ldmatrix`, `mma`,
//! `mbarrier`, the tensor memory accelerator, `wgmma`. Tensor cores sum in f32, in an order that may differ
//! from a GPU's; a product and a sum are one operation only by `fmaf`.
//!
//! # What makes a launch fail
//! - Threads that wait for ever, or at different `__syncthreads`; the error says which wait where. A mask
//!   of lanes that names one that has returned.
//! - Addresses that are no memory or not aligned (clang++ does not check copies of structs); writes up to
//!   256 bytes beyond an allocation, or beyond the block's shared memory; instructions of `ptx.cuh` with an
//!   address of another kind of memory.
//! - Shifts by too many bits, elements beyond a local array, integers that overflow or are divided by
//!   zero.
//! - Misused barriers, copies that are not waited for, fences that are missing between `cp.async` and
//!   `wgmma`, before `wgmma`, after `mbarrier.init` and before a tensor map.
//! - A launch that differs from how the kernel was compiled, or that the GPU could not run.
//!
//! # What makes results wrong
//! Memory is NaN, in every type, until it is written; local variables have large values. A missing barrier
//! shows in some [`Order`], a missing wait with [`Copies::Late`], a buffer that is overwritten too
//! early with [`Copies::Early`].
//!
//! # What is not emulated
//! - Time, caches, banks, registers, how many blocks fit a multiprocessor.
//! - The order in which other threads see the writes of one: each sees all of them. Blocks that wait for
//!   others may wait for ever.
//! - Fences between ordinary writes and the accelerator's reads, other than those above.
//! - Static shared memory keeps the values of the last block.
//! - Threads of a warp that run together: between two primitives each runs by itself.

mod devices;
mod emulator;
mod ffi;

pub use devices::{VARIABLES, test_devices, test_gpu};
pub use emulator::{Copies, Emulator, EmulatorOptions, Order, compiled_kernels, emulated};
