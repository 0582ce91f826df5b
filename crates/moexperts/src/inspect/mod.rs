//! Facts about what models run on: the machine, its devices, which experts each backend runs, the
//! kernels, the environment.
//!
//! Every fact comes from the code that decides it, at the moment of the call; nothing is cached. The
//! program's `moexperts inspect` prints them.

mod devices;
mod environment;
mod kernels;

pub use moexperts_core::{BackendSupport, Variable, VariableValue, backend_support};
pub use moexperts_cpu::inspect::{
    CpuKernel, Machine, Memory, ProcessMemory, cpu_kernels, describe_cpu, read_bandwidth,
};

pub use self::{
    devices::{DeviceFacts, describe_gpu, devices},
    environment::environment,
    kernels::{KernelChoice, kernel_choices},
};
