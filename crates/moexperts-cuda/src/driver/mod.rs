//! What a GPU's driver does for this crate: memory, launches in order, graphs.
//!
//! Everything above is written over [`Driver`]. [`nvidia`] is the one users have; tests have one
//! that runs the same kernels on the host.

mod cubins;
pub mod nvidia;
pub mod nvrtc;

use std::fmt::Debug;

use bytemuck::{Pod, Zeroable};
use moexperts_core::Result;

use crate::kernels::Module;

/// An address in the device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// The address so many bytes further.
    #[must_use]
    pub const fn offset(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// `NVIDIA H200`.
    pub name: String,
    /// Compute capability, as (major, minor).
    pub compute_capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of shared memory a block can ask for.
    pub shared_bytes_per_block: u32,
    /// Bytes of the second-level cache.
    pub l2_bytes: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

/// A kernel with its grid and its argument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Launch<'a> {
    /// Where the kernel is.
    pub module: &'static Module,
    /// Its name in the source.
    pub kernel: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// The one argument of the kernel, by value.
    pub params: &'a [u8],
}

/// Something the device does in its order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Work<'a> {
    /// Runs a kernel.
    Launch(Launch<'a>),
    /// Brings bytes to the device; they are read before [`Driver::submit`] returns.
    Upload {
        /// Where to.
        to: DevicePtr,
        /// What.
        bytes: &'a [u8],
    },
    /// Copies bytes on the device; the two do not overlap.
    Copy {
        /// Where from.
        from: DevicePtr,
        /// Where to.
        to: DevicePtr,
        /// How many bytes.
        bytes: usize,
    },
    /// Zeroes bytes on the device.
    Zero {
        /// Where.
        at: DevicePtr,
        /// How many bytes.
        bytes: usize,
    },
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

/// A device's memory, and its work in the order it was submitted: what comes later sees what came
/// before. All methods can be called from any thread.
pub trait Driver: Debug + Send + Sync + 'static {
    /// What the device is.
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

    /// Memory of at least so many bytes (not 0), aligned to 256; the values are unspecified.
    ///
    /// # Errors
    /// If there is no room: how much was needed, and how much is free.
    fn alloc(&self, bytes: usize) -> Result<DevicePtr>;

    /// Gives memory back, after the work submitted so far.
    fn free(&self, ptr: DevicePtr);

    /// Bytes of memory that are free.
    ///
    /// # Errors
    /// If the device does not answer.
    fn free_bytes(&self) -> Result<u64>;

    /// Does something after everything submitted before.
    ///
    /// # Errors
    /// If a kernel cannot be compiled, or the device refuses.
    fn submit(&self, work: Work<'_>) -> Result<()>;

    /// Reads bytes, after everything submitted before.
    ///
    /// # Errors
    /// If the device failed at something before.
    fn read(&self, from: DevicePtr, out: &mut [u8]) -> Result<()>;

    /// Waits for everything submitted before.
    ///
    /// # Errors
    /// If the device failed at something before.
    fn synchronize(&self) -> Result<()>;

    /// Some work captured as a graph, to be launched many times; nothing is done now.
    ///
    /// # Errors
    /// If a kernel cannot be compiled, or the device refuses.
    fn capture(&self, works: &[Work<'_>]) -> Result<Box<dyn Graph>>;

    /// How the tensor memory accelerator reads a matrix.
    ///
    /// # Errors
    /// If the device has none, or the matrix is not aligned as it has to be.
    fn tensor_map(&self, spec: TensorMapSpec) -> Result<TensorMap>;

    /// Nanoseconds that the device takes for some work, from its own clock.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64>;
}

/// Captured work.
pub trait Graph: Debug + Send {
    /// Submits all of it, with these bytes in place of those of its uploads, in their order and of
    /// their lengths.
    ///
    /// # Errors
    /// If the device refuses.
    fn launch(&mut self, uploads: &[&[u8]]) -> Result<()>;
}
