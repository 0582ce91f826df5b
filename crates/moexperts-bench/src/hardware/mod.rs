//! The devices the program runs on: what it says of each, and how it measures them.

mod cpu;
mod cuda;

use moexperts::{DType, Device, core::Result};

/// A device as the program shows and measures it.
pub(crate) trait Hardware: Device<Experts = Self> {
    /// Threads it computes with, where their number is the user's to choose.
    fn threads(&self) -> Option<usize>;

    /// What it is: `CPU, avx2, 2 threads`, `CUDA, NVIDIA H200, 14.6 GB of 150 GB in use`.
    fn summary(&self) -> String;

    /// What it is, for the first line of a report.
    fn machine(&self) -> String;

    /// Lines about it beside those about the processor.
    fn facts(&self) -> Vec<(&'static str, String)>;

    /// Bytes that are free in its own memory, if it has some; `None` where it computes in that of the
    /// machine.
    fn own_memory(&self) -> Option<u64>;

    /// Counts the peak anew from here on, where the system can.
    fn forget_peak_memory(&self);

    /// The most memory the program took since; on a GPU all that is in use now.
    fn peak_memory(&self) -> Option<u64>;

    /// What measures what it can do at most.
    ///
    /// - `dtype`: the weights whose operations are counted, if they are
    fn meter(&self, dtype: Option<DType>) -> Result<Box<dyn Meter>>;
}

/// Measures a device, again and again.
pub(crate) trait Meter {
    fn bandwidth(&mut self) -> Result<Bandwidth>;

    /// `None` if operations are not counted.
    fn peak(&mut self) -> Result<Option<Peak>>;
}

/// Bytes a device reads from its memory.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bandwidth {
    pub(crate) bytes_per_second: f64,
    /// How it was measured: `measured with 2 threads over 537 MB`.
    pub(crate) measured: String,
}

/// Multiplications and additions a device does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Peak {
    pub(crate) flops_per_second: f64,
    /// Of what: `bf16 on avx512bf16`.
    pub(crate) of: String,
}
