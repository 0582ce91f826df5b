//! The GPU: its driver, and what every operation asks of it.

use std::{
    num::NonZero,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use bytemuck::{NoUninit, Pod, Zeroable};
use moexperts_core::{Error, Execution, Result};

use crate::{
    driver::{DevicePtr, Driver, Launch, Properties, Work, nvidia::Nvidia},
    kernels::{Kernel, MODULES, Module},
    runtime::memory::Buffer,
    runtime::replay,
    tuning::Tuning,
};

/// Which GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CudaOptions {
    /// Its number, as the driver counts those that `CUDA_VISIBLE_DEVICES` lets it see.
    pub ordinal: usize,
}

/// A GPU. Clones share it, and its work is done in the order of the calls.
#[derive(Debug, Clone)]
pub struct Cuda {
    driver: Arc<dyn Driver>,
    tuning: Tuning,
}

impl Cuda {
    /// Finds the driver and the GPU.
    ///
    /// # Errors
    /// [`Error::Device`] that says what was looked for and where, if there is no driver, no NVRTC or
    /// no such GPU.
    pub fn new(options: CudaOptions) -> Result<Self> {
        Ok(Self::with_driver(Arc::new(Nvidia::new(options.ordinal)?)))
    }

    /// A GPU behind a driver of one's own.
    pub fn with_driver(driver: Arc<dyn Driver>) -> Self {
        Self { driver, tuning: Tuning::default() }
    }

    /// The GPUs there are, in the order of their numbers.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no driver.
    pub fn devices() -> Result<Vec<Properties>> {
        Nvidia::devices()
    }

    /// What the GPU is.
    pub fn properties(&self) -> &Properties {
        self.driver.properties()
    }

    /// The modules of kernels that were not compiled on this machine yet. Each is when it is first
    /// launched, or by [`compile_kernels`](Self::compile_kernels).
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
            // Waits for all of them.
            results.collect::<Vec<_>>().into_iter().collect()
        })
    }

    /// The driver, for a backend with kernels of its own.
    pub fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// How the kernels are set.
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

    /// Does some work after everything before it.
    ///
    /// # Errors
    /// As [`Driver::submit`].
    pub fn submit(&self, work: Work<'_>) -> Result<()> {
        replay::submit(&self.driver, work)
    }

    /// Launches a kernel; nothing if the grid is empty.
    ///
    /// # Errors
    /// If the kernel cannot be compiled, or the device refuses.
    pub fn launch<P: NoUninit>(
        &self,
        kernel: &Kernel<P>,
        grid: [usize; 3],
        shared_bytes: usize,
        params: P,
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let too_large = |_| Self::problem(format!("a grid of {grid:?} blocks is too large"));
        let [x, y, z] = grid.map(u32::try_from);
        self.submit(Work::Launch(Launch {
            module: kernel.module,
            kernel: kernel.name,
            grid: [x.map_err(too_large)?, y.map_err(too_large)?, z.map_err(too_large)?],
            threads: kernel.threads,
            shared_bytes: u32::try_from(shared_bytes).map_err(too_large)?,
            params: bytemuck::bytes_of(&params),
        }))
    }

    /// Brings values to the beginning of a buffer, which grows if it has to.
    ///
    /// # Errors
    /// If the device has no room.
    pub(crate) fn upload<T: NoUninit>(&self, values: &[T], to: &mut Buffer) -> Result<DevicePtr> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        to.reserve(self, bytes.len())?;
        if !bytes.is_empty() {
            self.submit(Work::Upload { to: to.ptr(), bytes })?;
        }
        Ok(to.ptr())
    }

    /// Reads values back, after everything before.
    ///
    /// # Errors
    /// If the device failed at something before.
    pub(crate) fn read<T: Pod + Zeroable>(&self, from: DevicePtr, out: &mut [T]) -> Result<()> {
        if out.is_empty() {
            return replay::finish(&self.driver);
        }
        replay::read(&self.driver, from, bytemuck::cast_slice_mut(out))
    }

    /// An [`Error::Device`].
    pub(crate) fn problem(problem: impl Into<String>) -> Error {
        Error::Device { device: <Self as Execution>::NAME, problem: problem.into() }
    }
}
