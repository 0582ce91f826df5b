//! The small operations between products: activations, norms, softmax, weighted sums.
//!
//! They are written once, in `portable`, as loops the compiler vectorises, and compiled once
//! per instruction set. Rust contracts no multiplication and addition into one rounding, so every
//! instruction set gives the same bits.

pub(crate) mod portable;
mod table;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use moexperts_core::Activation;

pub use self::table::{Elementwise, RunningSoftmax};
use crate::isa::Isa;

/// Whether there are loops for an activation.
pub(crate) fn has_activation(activation: Activation) -> bool {
    portable::has_activation(activation)
}

impl Elementwise {
    /// The kernels this machine can run, best first.
    pub fn all() -> impl Iterator<Item = Self> {
        let sets = [
            #[cfg(target_arch = "x86_64")]
            x86::avx512::KERNELS,
            #[cfg(target_arch = "x86_64")]
            x86::avx2::KERNELS,
            portable::KERNELS,
        ];
        sets.into_iter().filter(|set| set.isa.runs_here())
    }

    /// The first kernels whose instruction set `isa` includes.
    pub fn select(isa: Isa) -> Self {
        Self::all().find(|set| isa.includes(set.isa)).unwrap_or(portable::KERNELS)
    }
}
