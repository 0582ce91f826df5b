//! The processor: its instruction set and its threads.

use std::{num::NonZero, sync::Arc, thread::available_parallelism};

use moexperts_core::{Error, Execution, Result, WeightFormat};

use crate::{
    elementwise::Elementwise,
    isa::Isa,
    processor,
    product::Kernel,
    shared_rows::SharedRows,
    threads::{HostThreads, Threads},
    tuning::Tuning,
};

/// Multiplications below which a product is not worth another thread: about 2 microseconds, in
/// which a thread of the pool is woken (bench/record/2026-11-23-kernel-choices-zen3.md).
pub(crate) const MIN_MULTIPLICATIONS: usize = 1 << 16;

/// Multiplications that make a part worth starting: the first weights of each part are not
/// prefetched.
const GOOD_MULTIPLICATIONS: usize = 1 << 21;

/// Values below which an elementwise operation is not worth another thread.
pub(crate) const MIN_VALUES: usize = 1 << 14;

/// Outputs a thread takes at least: whole tiles, and whole cache lines of the result.
pub(crate) const NARROWEST: usize = 16;

/// How a [`Cpu`] computes.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuOptions {
    /// Threads to compute with; as many as the machine has if not set.
    pub threads: Option<NonZero<usize>>,
    /// Instruction set; the best of the machine, or `MOEXPERTS_ISA`, if not set.
    pub isa: Option<Isa>,
}

/// The processor, its instruction set and a pool of threads. Clones share the pool.
#[derive(Debug, Clone)]
pub struct Cpu {
    isa: Isa,
    elementwise: Elementwise,
    threads: Threads,
    tuning: Tuning,
}

impl Cpu {
    /// Finds the instruction set and starts the threads.
    ///
    /// # Errors
    /// [`Error::Device`] if the instruction set is unknown or missing, or no thread can be made.
    pub fn new(options: CpuOptions) -> Result<Self> {
        Self::with_threads(options, |count, parts| {
            Threads::new(count, parts).map_err(|error| error.to_string())
        })
    }

    /// Finds the instruction set; computes with threads that `host` lends.
    ///
    /// Clones share a team: of several callers at a time the first has the threads, the others
    /// compute alone.
    ///
    /// # Errors
    /// [`Error::Device`] if the instruction set is unknown or missing.
    pub fn hosted(host: Arc<dyn HostThreads>, options: CpuOptions) -> Result<Self> {
        Self::with_threads(options, |count, parts| {
            Threads::of_host(host, count, parts).map_err(|error| error.to_string())
        })
    }

    fn with_threads(
        options: CpuOptions,
        threads: impl FnOnce(usize, usize) -> Result<Threads, String>,
    ) -> Result<Self> {
        let isa = match options.isa {
            Some(isa) if isa.runs_here() => isa,
            Some(isa) => return Err(Self::problem(format!("instruction set `{isa}` is missing"))),
            None => Isa::choose().map_err(|error| Self::problem(error.to_string()))?,
        };
        let count = options.threads.or_else(|| available_parallelism().ok());
        let tuning = Tuning::default();
        let threads = threads(count.map_or(1, NonZero::get), tuning.parts_per_thread)
            .map_err(Self::problem)?;
        tracing::debug!(%isa, threads = threads.count(), "chose the instruction set");
        Ok(Self { isa, elementwise: Elementwise::select(isa), threads, tuning })
    }

    /// An [`Error::Device`].
    pub(crate) fn problem(problem: String) -> Error {
        Error::Device { device: Self::NAME, problem }
    }

    /// The same processor and threads, with other settings.
    pub(crate) fn tuned(&self, tuning: Tuning) -> Self {
        let threads = self.threads.clone().with_parts_per_thread(tuning.parts_per_thread);
        Self { threads, tuning, ..*self }
    }

    pub(crate) fn tuning(&self) -> Tuning {
        self.tuning
    }

    /// The kernel for weights of a format.
    ///
    /// # Panics
    /// If there is none: [`Memory::has_format`](moexperts_core::Memory::has_format) says which
    /// formats have one.
    pub(crate) fn kernel(&self, format: impl Into<WeightFormat>) -> Kernel {
        let kernel = Kernel::select(self.isa, format).expect("the format was checked");
        kernel.tuned(self.tuning)
    }

    /// The processor's name, where it or the system gives one.
    pub fn processor() -> Option<String> {
        processor::name()
    }

    /// The instruction set its kernels use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads it computes with.
    pub fn thread_count(&self) -> usize {
        self.threads.count()
    }

    pub(crate) fn threads(&self) -> &Threads {
        &self.threads
    }

    pub(crate) fn elementwise(&self) -> &Elementwise {
        &self.elementwise
    }

    /// The number of outputs that a thread should take at a time, where each costs this many
    /// `multiplications`: enough to be worth a start, and the same for all threads.
    pub(crate) fn grain(&self, outputs: usize, multiplications: usize) -> usize {
        let threads = self.thread_count();
        let parts = outputs * multiplications / (GOOD_MULTIPLICATIONS * threads);
        let share = outputs.div_ceil(threads * parts.clamp(1, self.threads.parts_per_thread()));
        let grain = share.max(MIN_MULTIPLICATIONS.div_ceil(multiplications.max(1)));
        grain.next_multiple_of(NARROWEST)
    }

    /// Calls `work` with the index and the values of every row, rows divided among the threads.
    pub(crate) fn for_each_row<T: Send + Sync>(
        &self,
        x: &mut [T],
        cols: usize,
        work: impl Fn(usize, &mut [T]) + Sync,
    ) {
        if cols == 0 {
            return;
        }
        let rows = x.len() / cols;
        let shared = SharedRows::new(x, cols);
        self.threads.split(rows, MIN_VALUES.div_ceil(cols), |range| {
            for row in range {
                // SAFETY: `split` gives each row to one part.
                work(row, unsafe { shared.row(row) });
            }
        });
    }
}
