//! The GPU as a value: its driver, and how kernels are submitted to it.

use std::{
    num::NonZero,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use bytemuck::NoUninit;
use moexperts_core::Result;

use crate::{
    driver::{BorrowedWork, Driver, Launch, Properties, Work, nvidia::Nvidia},
    error::problem,
    kernels::{Kernel, MODULES, Module},
    runtime::replay,
    tuning::Tuning,
};

/// Which GPU is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CudaOptions {
    /// Its number, as the driver counts those that `CUDA_VISIBLE_DEVICES` lets it see.
    pub ordinal: usize,
}

/// A GPU. Clones share it, and its work is done in the order of the calls.
///
/// Memory of a GPU is used with the `Cuda` that made it, or a clone of it: with any other, operations
/// panic.
#[derive(Debug, Clone)]
pub struct Cuda {
    driver: Arc<dyn Driver>,
    tuning: Tuning,
}

impl Cuda {
    /// Finds the driver and the GPU.
    ///
    /// # Errors
    /// [`Error::Device`](moexperts_core::Error::Device) if there is no driver, no NVRTC or no such
    /// GPU; it names the places that were searched.
    pub fn new(options: CudaOptions) -> Result<Self> {
        Ok(Self::with_driver(Arc::new(Nvidia::new(options.ordinal)?)))
    }

    /// A GPU behind a given driver.
    pub fn with_driver(driver: Arc<dyn Driver>) -> Self {
        Self { driver, tuning: Tuning::default() }
    }

    /// Describes the GPUs of this machine, in the order of their numbers.
    ///
    /// # Errors
    /// [`Error::Device`](moexperts_core::Error::Device) if there is no driver.
    pub fn devices() -> Result<Vec<Properties>> {
        Nvidia::devices()
    }

    /// Describes the GPU.
    pub fn properties(&self) -> &Properties {
        self.driver.properties()
    }

    /// The modules of kernels that were not compiled on this machine yet. Each is compiled when one
    /// of its kernels is first launched, or by [`compile_kernels`](Self::compile_kernels).
    pub fn uncompiled_kernels(&self) -> Vec<&'static Module> {
        MODULES.iter().copied().filter(|module| !self.driver.is_compiled(module)).collect()
    }

    /// Compiles the [`uncompiled_kernels`](Self::uncompiled_kernels), several at a time, and calls
    /// `compiled` after each.
    ///
    /// # Errors
    /// If one cannot be compiled.
    pub fn compile_kernels(&self, compiled: impl Fn() + Sync) -> Result<()> {
        let modules = self.uncompiled_kernels();
        let next = AtomicUsize::new(0);
        let compile = || -> Result<()> {
            while let Some(module) = modules.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.driver.compile(module)?;
                compiled();
            }
            Ok(())
        };
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(modules.len());
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(compile)).collect();
            let results = workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
            // Collected first, so that all threads are joined before an error is returned.
            results.collect::<Vec<_>>().into_iter().collect()
        })
    }

    /// The driver, for backends with own kernels.
    pub fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// The settings of the kernels.
    pub(crate) fn tuning(&self) -> Tuning {
        self.tuning
    }

    /// The same GPU with other settings of its kernels.
    pub(crate) fn tuned(&self, tuning: Tuning) -> Self {
        Self { tuning, ..self.clone() }
    }

    /// Whether the GPU has tensor cores that `mma` of bf16 runs on.
    pub(crate) fn has_tensor_cores(&self) -> bool {
        self.properties().compute_capability >= (8, 0)
    }

    /// Whether the GPU has `wgmma` and the tensor memory accelerator as Hopper has them.
    pub(crate) fn is_hopper(&self) -> bool {
        self.properties().compute_capability == (9, 0)
    }

    /// Submits work, to be done after all work submitted before.
    ///
    /// # Errors
    /// As [`Driver::submit`].
    ///
    /// # Safety
    /// What [`Driver::submit`] requires holds until the work is done. Dropping a
    /// [`CudaBuffer`](crate::CudaBuffer) after this call is fine: memory is freed in the same order.
    pub unsafe fn submit(&self, work: BorrowedWork<'_>) -> Result<()> {
        // SAFETY: the caller promises what this function and the driver's both require.
        unsafe { replay::submit(&self.driver, work) }
    }

    /// Launches a kernel; nothing if the grid is empty.
    ///
    /// # Errors
    /// If the kernel cannot be compiled, or the device refuses.
    ///
    /// # Safety
    /// The module has this kernel, which takes a struct laid out as `P`. With this grid, this much
    /// dynamic shared memory and these parameters it accesses only memory that was allocated by the
    /// driver of this `Cuda` and stays allocated as [`submit`](Self::submit) requires.
    pub unsafe fn launch<P: NoUninit>(
        &self,
        kernel: &Kernel<P>,
        grid: [usize; 3],
        shared_bytes: usize,
        params: P,
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let too_large = |_| problem(format!("a grid of {grid:?} blocks is too large"));
        let [x, y, z] = grid.map(u32::try_from);
        let work = Work::Launch(Launch {
            module: kernel.module,
            kernel: kernel.name,
            grid: [x.map_err(too_large)?, y.map_err(too_large)?, z.map_err(too_large)?],
            threads: kernel.threads,
            shared_bytes: u32::try_from(shared_bytes).map_err(too_large)?,
            params: bytemuck::bytes_of(&params),
        });
        // SAFETY: the bytes are those of a `P`, which the caller says the kernel takes, and the caller
        // says that the kernel accesses allocated memory alone.
        unsafe { self.submit(work) }
    }
}
