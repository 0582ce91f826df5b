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

/// Its name.
pub(crate) fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
