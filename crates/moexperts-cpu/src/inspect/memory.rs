//! Memory of the machine and of this process, on Linux; other systems give none of these numbers.

use std::fs;

/// Memory of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Physical memory.
    pub total_bytes: u64,
    /// Memory available without swapping.
    pub available_bytes: u64,
}

impl Memory {
    /// The present numbers; `None` where the system gives none.
    pub fn now() -> Option<Self> {
        Self::read(&fs::read_to_string("/proc/meminfo").ok()?)
    }

    fn read(meminfo: &str) -> Option<Self> {
        let field = |name: &str| line_bytes(meminfo, name);
        Some(Self { total_bytes: field("MemTotal")?, available_bytes: field("MemAvailable")? })
    }
}

/// Resident memory of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessMemory {
    /// The peak.
    pub peak_bytes: u64,
    /// Anonymous memory: what the process allocated.
    pub own_bytes: u64,
    /// Mapped files, such as weights, which the system can drop and read again.
    pub mapped_bytes: u64,
}

impl ProcessMemory {
    /// The present numbers; `None` where the system gives none.
    pub fn now() -> Option<Self> {
        Self::read(&fs::read_to_string("/proc/self/status").ok()?)
    }

    fn read(status: &str) -> Option<Self> {
        let field = |name: &str| line_bytes(status, name);
        Some(Self {
            peak_bytes: field("VmHWM")?,
            own_bytes: field("RssAnon")?,
            mapped_bytes: field("RssFile")?,
        })
    }
}

/// Reads `Name:  1234 kB`, as the files in `/proc` write it.
fn line_bytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_memory_of_the_machine() {
        let meminfo = "MemTotal:       3000 kB\nMemFree:  1 kB\nMemAvailable:   2000 kB\n";
        let memory = Memory { total_bytes: 3_072_000, available_bytes: 2_048_000 };
        assert_eq!(Memory::read(meminfo), Some(memory));
        assert_eq!(Memory::read("MemTotal: 3000 kB"), None);
    }

    #[test]
    fn reads_the_memory_of_a_process() {
        let status = "VmHWM:\t    2000 kB\nRssAnon:\t    500 kB\nRssFile:\t 1000 kB\n";
        let memory =
            ProcessMemory { peak_bytes: 2_048_000, own_bytes: 512_000, mapped_bytes: 1_024_000 };
        assert_eq!(ProcessMemory::read(status), Some(memory));
        assert_eq!(ProcessMemory::read("VmHWM: many kB"), None);
    }
}
