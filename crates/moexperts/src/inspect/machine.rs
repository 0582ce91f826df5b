//! The machine, as the CPU's kernels see it.

use moexperts_cpu::{
    Cpu, Isa,
    limits::{self, ReadBandwidth},
};

use super::Memory;

/// The machine and how a [`Cpu`] uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The processor's name, where the system tells it.
    pub processor: Option<String>,
    /// The instruction set of the kernels in use.
    pub isa: Isa,
    /// Every instruction set there are kernels for and this machine has, in ascending order.
    pub isas: Vec<Isa>,
    /// Threads that compute.
    pub threads: usize,
    /// Its memory, where the system tells it.
    pub memory: Option<Memory>,
}

impl Machine {
    /// The machine as `cpu` uses it, at this moment.
    pub fn of(cpu: &Cpu) -> Self {
        Self {
            processor: Cpu::processor(),
            isa: cpu.isa(),
            isas: Isa::available().collect(),
            threads: cpu.thread_count(),
            memory: Memory::now(),
        }
    }
}

/// Measures how fast the threads of `cpu` read from memory; takes about a second, and at most a
/// quarter of the memory that is free.
pub fn read_bandwidth(cpu: &Cpu) -> ReadBandwidth {
    limits::read_bandwidth(cpu, Memory::now().map(|memory| memory.available_bytes))
}

#[cfg(test)]
mod tests {
    use moexperts_cpu::CpuOptions;

    use super::*;

    #[test]
    fn a_machine_is_used_as_its_cpu_says() {
        let options = CpuOptions { threads: 3.try_into().ok(), isa: Some(Isa::Portable) };
        let machine = Machine::of(&Cpu::new(options).unwrap());
        assert_eq!((machine.isa, machine.threads), (Isa::Portable, 3));
        assert_eq!(machine.isas[0], Isa::Portable);
    }
}
