//! The CPU as a device: kernels for every instruction set, chosen at run time, and the experts
//! backends `eager`, `batched_mm` and `grouped_mm`.
//!
//! A folder is a family of kernels, a file in it an instruction set; `unsafe` stays in those
//! files and at the two edges that call them ([`product`] and `threads`). Start with [`Cpu`].

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod cpu;
mod device;
pub mod elementwise;
mod experts;
mod huge_pages;
pub mod inspect;
mod isa;
pub mod limits;
mod linear;
mod operands;
mod processor;
pub mod product;
mod routing;
mod rows;
mod shared_rows;
mod state;
mod threads;
mod tuning;

pub use cpu::{Cpu, CpuOptions};
pub use experts::{BatchedMm, Eager, GroupedMm, PairsCall, RowsBackend, RowsCall, expert_linear};
pub use isa::{Architecture, ISA_VARIABLE, Isa, IsaError};
pub use rows::{Rows, RowsMut, ValuesMut};
pub use state::State;
pub use threads::HostThreads;

/// The environment variables that this crate reads.
pub const VARIABLES: &[moexperts_core::Variable] = &[isa::VARIABLE];
