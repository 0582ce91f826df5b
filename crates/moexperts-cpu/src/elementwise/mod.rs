//! The small operations between products: activations, norms, softmax, weighted sums.
//!
//! They are written once, in `portable`, as loops the compiler vectorises, and compiled once
//! per instruction set. Rust contracts no multiplication and addition into one rounding, so every
//! instruction set gives the same bits.

pub(crate) mod portable;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use half::bf16;
use moexperts_core::Activation;

use crate::isa::Isa;

/// The elementwise kernels of one instruction set.
#[derive(Debug, Clone, Copy)]
pub struct Elementwise {
    isa: Isa,
    activate_gated: unsafe fn(Activation, &[f32], &mut [f32]),
    activate: unsafe fn(Activation, &mut [f32]),
    rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    softmax: unsafe fn(&mut [f32], f32),
    add_scaled: unsafe fn(&mut [f32], &[f32], f32),
    round: unsafe fn(&[f32], &mut [bf16]),
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

    /// The best kernels that need no more than `isa`.
    pub fn select(isa: Isa) -> Self {
        Self::all().find(|set| set.isa <= isa).unwrap_or(portable::KERNELS)
    }

    /// The instruction set they need.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// `up = activation(gate, up)`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn activate_gated(&self, activation: Activation, gate: &[f32], up: &mut [f32]) {
        assert_eq!(gate.len(), up.len(), "gate and up");
        // SAFETY: `all` and `select` checked the instruction set.
        unsafe { (self.activate_gated)(activation, gate, up) }
    }

    /// `up = activation(up)`, without a gate.
    pub fn activate(&self, activation: Activation, up: &mut [f32]) {
        // SAFETY: `all` and `select` checked the instruction set.
        unsafe { (self.activate)(activation, up) }
    }

    /// `out = x / sqrt(mean(x²) + eps) · weight`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len(), "x, weight and out");
        // SAFETY: `all` and `select` checked the instruction set.
        unsafe { (self.rms_norm)(x, weight, eps, out) }
    }

    /// `values = softmax(scale · values)`.
    pub fn softmax(&self, values: &mut [f32], scale: f32) {
        // SAFETY: `all` and `select` checked the instruction set.
        unsafe { (self.softmax)(values, scale) }
    }

    /// `out += factor · values`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add_scaled(&self, out: &mut [f32], values: &[f32], factor: f32) {
        assert_eq!(out.len(), values.len(), "out and values");
        // SAFETY: `all` and `select` checked the instruction set.
        unsafe { (self.add_scaled)(out, values, factor) }
    }

    /// Rounds to nearest, ties to even.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn round(&self, values: &[f32], out: &mut [bf16]) {
        assert_eq!(values.len(), out.len(), "values and out");
        // SAFETY: `all` and `select` checked the instruction set.
        unsafe { (self.round)(values, out) }
    }
}
