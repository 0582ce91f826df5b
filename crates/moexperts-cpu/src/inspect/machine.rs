//! The machine, as the CPU's kernels see it.

use super::memory::Memory;
use crate::{
    Cpu, Isa,
    limits::{self, ReadBandwidth},
};

/// The machine and how a [`Cpu`] uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The processor's name, where the system tells it.
    pub processor: Option<String>,
    /// The instruction set of the kernels in use.
    pub isa: Isa,
    /// The instruction sets of this machine that kernels are written for, in ascending order.
    pub isas: Vec<Isa>,
    /// Threads that compute.
    pub threads: usize,
    /// Its memory, where the system tells it.
    pub memory: Option<Memory>,
}

impl Machine {
    /// The machine as `cpu` uses it now.
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

/// Describes a processor: `Intel(R) Xeon(R) Processor, 2 threads, avx512bf16`, without the name
/// where the system does not give one.
pub fn describe_cpu(cpu: &Cpu) -> String {
    let name = Cpu::processor().map_or(String::new(), |name| format!("{name}, "));
    let threads = cpu.thread_count();
    format!("{name}{threads} thread{}, {}", if threads == 1 { "" } else { "s" }, cpu.isa())
}

/// Measures how fast the threads of `cpu` read from memory; takes about a second, and at most a
/// quarter of the available memory.
pub fn read_bandwidth(cpu: &Cpu) -> ReadBandwidth {
    limits::read_bandwidth(cpu, Memory::now().map(|memory| memory.available_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CpuOptions;

    #[test]
    fn a_machine_is_used_as_its_cpu_says() {
        let options = CpuOptions { threads: 3.try_into().ok(), isa: Some(Isa::Portable) };
        let machine = Machine::of(&Cpu::new(options).unwrap());
        assert_eq!((machine.isa, machine.threads), (Isa::Portable, 3));
        assert_eq!(machine.isas[0], Isa::Portable);
    }

    #[test]
    fn a_processor_is_described_by_its_threads_and_instruction_set() {
        for (threads, end) in [(1, "1 thread, portable"), (2, "2 threads, portable")] {
            let options = CpuOptions { threads: threads.try_into().ok(), isa: Some(Isa::Portable) };
            let description = describe_cpu(&Cpu::new(options).unwrap());
            assert!(description.ends_with(end), "{description}");
        }
    }
}
