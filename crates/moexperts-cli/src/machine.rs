//! The machine the program runs on, as Linux describes it; elsewhere nothing is known.

use std::fs;

use crate::summary::line_bytes;

/// Memory of the machine, in bytes.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    pub(crate) available: u64,
}

impl Memory {
    pub(crate) fn now() -> Option<Self> {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let field = |name| line_bytes(&text, name);
        Some(Self { total: field("MemTotal")?, available: field("MemAvailable")? })
    }
}

/// The most memory of this process that was in RAM, in bytes, since it began or since
/// [`forget_peak_memory`].
pub(crate) fn peak_memory() -> Option<u64> {
    line_bytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM")
}

/// Counts the peak anew from here on, where the system can.
pub(crate) fn forget_peak_memory() {
    // Without it the peak is that of the whole run.
    let _ = fs::write("/proc/self/clear_refs", "5");
}
