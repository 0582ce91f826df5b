//! Activations, as kernels take them.

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

impl ActivationParams {
    pub(crate) fn new(activation: Activation, gated: bool) -> Self {
        let (kind, alpha, limit) = match activation {
            Activation::Silu => (0, 0.0, 0.0),
            Activation::Gelu => (1, 0.0, 0.0),
            Activation::GeluTanh => (2, 0.0, 0.0),
            Activation::ClampedSwiglu { alpha, limit } => (3, alpha, limit),
            Activation::Relu2 => (4, 0.0, 0.0),
            Activation::ClampedSilu { limit } => (5, 1.0, limit),
        };
        Self { kind, gated: u32::from(gated), alpha, limit }
    }

    /// Whether there is a gate.
    pub(crate) fn is_gated(self) -> bool {
        self.gated != 0
    }
}
