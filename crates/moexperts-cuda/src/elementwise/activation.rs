//! Activations as arguments of kernels.

use bytemuck::{Pod, Zeroable};
use moexperts_core::Activation;

/// `Activation` of prelude.cuh.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct ActivationParams {
    kind: u32,
    gated: u32,
    alpha: f32,
    limit: f32,
}

/// Whether the kernels have an activation.
pub(crate) fn has_activation(activation: Activation) -> bool {
    formula(activation).is_some()
}

/// The number of an activation in prelude.cuh, its alpha and its limit.
fn formula(activation: Activation) -> Option<(u32, f32, f32)> {
    match activation {
        Activation::Silu => Some((0, 0.0, 0.0)),
        Activation::Gelu => Some((1, 0.0, 0.0)),
        Activation::GeluTanh => Some((2, 0.0, 0.0)),
        Activation::ClampedSwiglu { alpha, limit } => Some((3, alpha, limit)),
        Activation::Relu2 => Some((4, 0.0, 0.0)),
        Activation::ClampedSilu { limit } => Some((5, 1.0, limit)),
        _ => None,
    }
}

impl ActivationParams {
    /// # Panics
    /// If the kernels do not have the activation: [`has_activation`] says which they have.
    pub(crate) fn new(activation: Activation, gated: bool) -> Self {
        let (kind, alpha, limit) = formula(activation).expect("the activation was checked");
        Self { kind, gated: u32::from(gated), alpha, limit }
    }

    /// Whether there is a gate.
    pub(crate) fn is_gated(self) -> bool {
        self.gated != 0
    }
}
