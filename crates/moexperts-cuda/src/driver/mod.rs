//! The driver of a GPU: its memory, its work in order, graphs of work.
//!
//! Everything above is written over [`Driver`]. [`nvidia`] is the one users have; tests have one
//! that runs the same kernels on the host.

mod cubins;
pub mod nvidia;
pub mod nvrtc;
mod work;

use std::fmt::Debug;

use moexperts_core::Result;

pub use self::work::{BorrowedWork, DevicePtr, Launch, OwnedWork, Work};
use crate::kernels::Module;

/// A description of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// `NVIDIA H200`.
    pub name: String,
    /// Compute capability, as (major, minor).
    pub compute_capability: (u32, u32),
    /// Number of multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of shared memory that a block may have at most.
    pub shared_bytes_per_block: u32,
    /// Bytes of the second-level cache.
    pub l2_bytes: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

impl Properties {
    /// A device of a compute capability, without memory or multiprocessors: set the other fields.
    pub fn new(name: impl Into<String>, compute_capability: (u32, u32)) -> Self {
        Self {
            name: name.into(),
            compute_capability,
            multiprocessors: 0,
            shared_bytes_per_block: 0,
            l2_bytes: 0,
            memory_bytes: 0,
        }
    }
}

/// A matrix of 16-bit elements that the tensor memory accelerator reads in boxes, each 128-byte
/// part of a row with its 16-byte pieces exchanged as `wgmma` reads them (`SWIZZLE_128B`); zeros
/// beyond its edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorMapSpec {
    /// The first element; a multiple of 16 bytes.
    pub at: DevicePtr,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Bytes from a row to the next; a multiple of 16.
    pub row_bytes: usize,
    /// Rows of a box; its columns are 64.
    pub box_rows: usize,
    /// Whether the elements are bf16 (else f16).
    pub bf16: bool,
}

/// What the driver writes for a [`TensorMapSpec`]: 128 bytes, aligned to 64 where a kernel reads
/// them.
pub type TensorMap = [u8; 128];

/// A device's memory, and its work in the order it was submitted: later work sees what earlier work
/// wrote. All methods can be called from any thread.
///
/// # Safety
/// Implementations keep these promises, on which callers base accesses of memory:
/// - What [`alloc`](Self::alloc) returns is memory of at least that size, which overlaps no other
///   allocation until it is freed.
/// - Memory that is freed can still be used by all work submitted before.
/// - Work does what [`Work`] says and accesses nothing else; bytes of the host are read before
///   [`submit`](Self::submit) or [`capture`](Self::capture) returns.
/// - [`read`](Self::read) and [`Graph::launch`] come after all work submitted before.
pub unsafe trait Driver: Debug + Send + Sync + 'static {
    /// Describes the device.
    fn properties(&self) -> &Properties;

    /// Whether a module can be launched on this machine without being compiled first.
    fn is_compiled(&self, module: &'static Module) -> bool {
        let _ = module;
        true
    }

    /// Compiles a module if it is not compiled, so that no launch has to wait for it.
    ///
    /// # Errors
    /// If it cannot be compiled.
    fn compile(&self, module: &'static Module) -> Result<()> {
        let _ = module;
        Ok(())
    }

    /// Allocates at least `bytes` bytes (not 0), aligned to 256; the values are unspecified.
    ///
    /// # Errors
    /// If there is not enough memory: how much was needed, and how much is free.
    fn alloc(&self, bytes: usize) -> Result<DevicePtr>;

    /// Gives memory back, after the work submitted so far.
    ///
    /// # Safety
    /// `ptr` was returned by [`alloc`](Self::alloc) of this driver and not freed since. No work
    /// submitted or launched after this uses the memory.
    unsafe fn free(&self, ptr: DevicePtr);

    /// Bytes of memory that are free.
    ///
    /// # Errors
    /// If the device does not answer.
    fn free_bytes(&self) -> Result<u64>;

    /// Does some work after all work submitted before.
    ///
    /// # Errors
    /// If a kernel cannot be compiled, or the device refuses.
    ///
    /// # Safety
    /// Every range of memory that the work names lies in memory allocated by this driver and not
    /// freed. The kernel of a launch takes one struct by value, of which the parameters are the
    /// bytes; with this grid and these parameters it accesses such memory alone.
    unsafe fn submit(&self, work: BorrowedWork<'_>) -> Result<()>;

    /// Reads bytes, after all work submitted before.
    ///
    /// # Errors
    /// If the device failed at something before.
    ///
    /// # Safety
    /// The bytes from `from` on, as many as `out` has, lie in memory allocated by this driver and not
    /// freed.
    unsafe fn read(&self, from: DevicePtr, out: &mut [u8]) -> Result<()>;

    /// Waits for all work submitted before.
    ///
    /// # Errors
    /// If the device failed at something before.
    fn synchronize(&self) -> Result<()>;

    /// Captures some work as a graph, to be launched many times; nothing is done now.
    ///
    /// # Errors
    /// If a kernel cannot be compiled, or the device refuses.
    fn capture(&self, works: &[BorrowedWork<'_>]) -> Result<Box<dyn Graph>>;

    /// Describes a matrix for the tensor memory accelerator. Reads nothing of it.
    ///
    /// # Errors
    /// If the device has no such accelerator, or the matrix is not aligned as it has to be.
    fn tensor_map(&self, spec: TensorMapSpec) -> Result<TensorMap>;

    /// Nanoseconds that the device takes for some work, from its own clock.
    ///
    /// # Errors
    /// Those of `work`, or if the device fails.
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64>;
}

/// Captured work.
pub trait Graph: Debug + Send {
    /// Submits all of it, with these bytes in place of those of its uploads, in their order and of
    /// their lengths.
    ///
    /// # Errors
    /// If the lengths differ or the device refuses.
    ///
    /// # Safety
    /// What [`Driver::submit`] requires holds now for all of the captured work.
    unsafe fn launch(&mut self, uploads: &[&[u8]]) -> Result<()>;
}
