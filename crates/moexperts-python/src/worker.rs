//! What computes a call: a handle of the processor with its own team of threads, and buffers.

use std::{
    num::NonZero,
    sync::{Mutex, MutexGuard, PoisonError},
};

use moexperts_core::{DType, Result, Routing, Scratch, WeightFormat};
use moexperts_cpu::{Cpu, CpuOptions, Isa, product::Kernel};

use crate::openmp;

/// The idle workers: at most as many as there were calls at the same time.
static IDLE: Mutex<Vec<Worker>> = Mutex::new(Vec::new());

/// In which dtype a product takes its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inputs {
    /// That of the fastest kernel, which may round them to the dtype of the weights.
    AsKernelsLike,
    /// float32.
    Unrounded,
}

/// Kept from call to call.
pub(crate) struct Worker {
    inputs: Inputs,
    pub(crate) cpu: Cpu,
    pub(crate) scratch: Scratch,
    pub(crate) routing: Routing,
}

impl Worker {
    /// Calls `work` with a worker that has `threads` threads.
    pub(crate) fn with<R>(
        threads: usize,
        inputs: Inputs,
        work: impl FnOnce(&mut Self) -> Result<R>,
    ) -> Result<R> {
        let mut worker = match Self::idle(threads, inputs) {
            Some(worker) => worker,
            None => Self::new(threads, inputs)?,
        };
        let result = work(&mut worker);
        idle().push(worker);
        result
    }

    /// An idle worker. Workers with another number of threads are dropped: torch's number has changed.
    fn idle(threads: usize, inputs: Inputs) -> Option<Self> {
        let mut idle = idle();
        idle.retain(|worker| worker.cpu.thread_count() == threads);
        let place = idle.iter().rposition(|worker| worker.inputs == inputs)?;
        Some(idle.swap_remove(place))
    }

    fn new(threads: usize, inputs: Inputs) -> Result<Self> {
        let mut cpu = cpu(threads, None)?;
        if inputs == Inputs::Unrounded && rounds_inputs(cpu.isa()) {
            let best = cpu.isa();
            let included = Isa::available().filter(|&isa| best.includes(isa));
            let isa = included.filter(|&isa| !rounds_inputs(isa)).last();
            cpu = self::cpu(threads, Some(isa.unwrap_or(Isa::Portable)))?;
        }
        Ok(Self { inputs, cpu, scratch: Scratch::default(), routing: Routing::default() })
    }
}

/// Whether some kernel of an instruction set takes its inputs in another dtype than float32.
fn rounds_inputs(isa: Isa) -> bool {
    let mut kernels = WeightFormat::ALL.iter().filter_map(|&format| Kernel::select(isa, format));
    kernels.any(|kernel| kernel.inputs() != DType::F32)
}

fn idle() -> MutexGuard<'static, Vec<Worker>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The processor with a number of threads, which are torch's if those can be shared. Without an
/// instruction set, the best one.
pub(crate) fn cpu(threads: usize, isa: Option<Isa>) -> Result<Cpu> {
    let options = CpuOptions { threads: NonZero::new(threads), isa };
    match openmp::host() {
        Some(host) => Cpu::hosted(host, options),
        None => Cpu::new(options),
    }
}
