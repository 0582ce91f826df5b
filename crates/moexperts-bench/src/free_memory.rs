//! How much memory random weights may take.

use moexperts::inspect::Memory;

use crate::hardware::Hardware;

/// What is used where nothing is known of the memory.
const UNKNOWN_MEMORY_BYTES: u64 = 8 << 30;

/// Bytes that are free.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FreeMemory {
    /// In the memory of the machine, if that is known.
    pub(crate) machine: Option<u64>,
    /// In the device's own memory, if it has some.
    pub(crate) own: Option<u64>,
}

impl FreeMemory {
    pub(crate) fn now(device: &dyn Hardware) -> Self {
        let machine = Memory::now().map(|memory| memory.available_bytes);
        Self { machine, own: device.own_memory() }
    }

    /// Half of what is free in the memory of the machine.
    pub(crate) fn machine_budget(&self) -> usize {
        (self.machine.unwrap_or(UNKNOWN_MEMORY_BYTES) / 2) as usize
    }

    /// Half of what is free in the device's own memory, if it has some.
    pub(crate) fn own_budget(&self) -> Option<usize> {
        self.own.map(|free| (free / 2) as usize)
    }
}
