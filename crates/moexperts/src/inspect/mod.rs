//! What models run on, as facts: the machine, its devices, which experts each backend runs, the
//! kernels, the environment.
//!
//! Everything is asked of whoever decides it, when it is asked; nothing is kept. The program's
//! `moexperts inspect` prints these facts, Python's `moexperts.inspect()` returns them.

mod devices;
mod environment;
mod kernels;
mod machine;
mod memory;
mod support;

#[cfg(feature = "cuda")]
pub use self::devices::describe_gpu;
pub use self::{
    devices::{DeviceFacts, describe_cpu, devices},
    environment::{Variable, VariableValue, environment},
    kernels::{CpuKernel, KernelChoice, cpu_kernels, kernel_choices},
    machine::{Machine, read_bandwidth},
    memory::{Memory, ProcessMemory},
    support::{BackendSupport, support},
};
