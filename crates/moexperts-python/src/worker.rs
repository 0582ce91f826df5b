//! Who computes a call: a handle of the processor with a team of its own, and buffers.

use std::{
    num::NonZero,
    sync::{Mutex, PoisonError},
};

use moexperts::{
    Cpu, CpuOptions,
    core::{Result, Routing, Scratch},
};

use crate::openmp;

/// The workers that have nothing to do: at most as many as there were calls at the same time.
static IDLE: Mutex<Vec<Worker>> = Mutex::new(Vec::new());

/// Kept from call to call.
pub(crate) struct Worker {
    pub(crate) cpu: Cpu,
    pub(crate) scratch: Scratch,
    pub(crate) routing: Routing,
}

impl Worker {
    /// Calls `work` with a worker of so many threads.
    pub(crate) fn with<R>(threads: usize, work: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        let mut worker = match Self::idle(threads) {
            Some(worker) => worker,
            None => Self::new(threads)?,
        };
        let result = work(&mut worker);
        IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
        result
    }

    /// An idle worker. Those of another number of threads end: the number has been changed.
    fn idle(threads: usize) -> Option<Self> {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|worker| worker.cpu.thread_count() == threads);
        idle.pop()
    }

    fn new(threads: usize) -> Result<Self> {
        let cpu = cpu(threads)?;
        Ok(Self { cpu, scratch: Scratch::default(), routing: Routing::default() })
    }
}

/// The processor with so many threads, torch's if they can be shared.
pub(crate) fn cpu(threads: usize) -> Result<Cpu> {
    let options = CpuOptions { threads: NonZero::new(threads), isa: None };
    match openmp::host() {
        Some(host) => Cpu::hosted(host, options),
        None => Cpu::new(options),
    }
}
