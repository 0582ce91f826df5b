//! The limits of the machine: bytes read from memory and operations a second.
//!
//! Both are measured, with the instruction set and as many threads as a [`Cpu`](crate::Cpu) has,
//! so that the time of a layer can be set against them. They are not the threads of the pool:
//! what is measured is the machine.

#[cfg(target_arch = "x86_64")]
mod amxbf16;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod chains;
mod clock;
mod portable;
mod reads;
mod sizes;
#[cfg(test)]
mod tests;

pub use chains::{Peak, peak};
pub use reads::{ReadBandwidth, read_bandwidth};
