//! The devices the program runs on: what it says of each, and how it measures them.

mod any;
mod cpu;
mod cuda;

use moexperts::{AnyDevice, DType, LanguageModel, core::Result};

/// A device as the program shows and measures it.
pub trait Hardware {
    /// Threads it computes with, where their number is the user's to choose.
    fn threads(&self) -> Option<usize>;

    /// The device in a line: `CPU, avx2, 2 threads`, `CUDA, NVIDIA H200, 14.6 GB of 150 GB in use`.
    fn summary(&self) -> String;

    /// The device for the first line of a report.
    fn machine(&self) -> String;

    /// Lines about it beside those about the processor.
    fn facts(&self) -> Vec<(&'static str, String)>;

    /// Free bytes of a device that has separate memory; `None` where it computes in that of the machine.
    fn own_memory(&self) -> Option<u64>;

    /// Counts the peak anew from here on, where the system can.
    fn forget_peak_memory(&self);

    /// The most memory the program took since; on a GPU all that is in use now.
    fn peak_memory(&self) -> Option<u64>;

    /// What measures what it can do at most.
    ///
    /// - `dtype`: the weights whose operations are counted, if they are
    ///
    /// # Errors
    /// If the device has no memory for it.
    fn meter(&self, dtype: Option<DType>) -> Result<Box<dyn Meter>>;
}

/// Measures a device, again and again.
pub trait Meter {
    /// Bytes read a second.
    ///
    /// # Errors
    /// If the device fails.
    fn bandwidth(&mut self) -> Result<Bandwidth>;

    /// Operations a second; `None` if they are not counted.
    ///
    /// # Errors
    /// If the device fails.
    fn peak(&mut self) -> Result<Option<Peak>>;
}

/// Bytes a device reads from its memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Bandwidth {
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// How it was measured: `measured with 2 threads over 537 MB`.
    pub measured: String,
}

/// Multiplications and additions a device does.
#[derive(Debug, Clone, PartialEq)]
pub struct Peak {
    /// Operations a second.
    pub flops_per_second: f64,
    /// Of what: `bf16 on avx512bf16`.
    pub of: String,
}

/// The device of a model that [`load`](crate::load) returned.
///
/// # Panics
/// If the model is on a device of a caller's own type, which [`load`](crate::load) does not take.
pub fn device_of(model: &LanguageModel) -> AnyDevice {
    model.device().expect("models are loaded on a device with a name")
}

/// A device as files of results have it: `cpu`.
///
/// - `name`: as messages have it
pub(crate) fn device_name(name: &str) -> String {
    name.to_lowercase()
}
