//! Facts about the machine, for reports: processor, memory and kernels.

mod kernels;
mod machine;
mod memory;

pub use self::{
    kernels::{CpuKernel, cpu_kernels},
    machine::{Machine, describe_cpu, read_bandwidth},
    memory::{Memory, ProcessMemory},
};
