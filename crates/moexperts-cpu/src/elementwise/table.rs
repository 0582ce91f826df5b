//! The table of kernels of one instruction set, and what a running softmax keeps.

use half::bf16;
use moexperts_core::Activation;

use crate::{isa::Isa, product::PANEL};

/// A softmax in each lane of a panel whose scores come block by block.
#[derive(Debug, Clone)]
pub struct RunningSoftmax {
    /// The largest score so far.
    pub(super) max: [f32; PANEL],
    /// The sum of the exponentials so far, relative to `max`.
    pub(super) sum: [f32; PANEL],
    /// The factor of the earlier blocks after the last one, because `max` may have grown.
    pub(super) shrink: [f32; PANEL],
}

impl RunningSoftmax {
    /// Before the first block.
    pub fn new() -> Self {
        Self { max: [f32::NEG_INFINITY; PANEL], sum: [0.0; PANEL], shrink: [0.0; PANEL] }
    }

    /// The sum of the weights of all blocks, by lane.
    pub fn sum(&self) -> &[f32; PANEL] {
        &self.sum
    }
}

impl Default for RunningSoftmax {
    fn default() -> Self {
        Self::new()
    }
}

/// `x`, weight and bias, `eps`, `out`.
type LayerNorm = unsafe fn(&[f32], [&[f32]; 2], f32, &mut [f32]);

/// The elementwise kernels of one instruction set.
///
/// The functions are unsafe to call: the processor must have the instruction set. Where lengths
/// differ, they compute the shorter.
#[derive(Debug, Clone, Copy)]
pub struct Elementwise {
    pub(super) isa: Isa,
    pub(super) activate_gated: unsafe fn(Activation, &[f32], &mut [f32]),
    pub(super) activate: unsafe fn(Activation, &mut [f32]),
    pub(super) rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    pub(super) layer_norm: LayerNorm,
    pub(super) softmax: unsafe fn(&mut [f32], f32),
    pub(super) softmax_with_sink: unsafe fn(&mut [f32], f32, f32),
    pub(super) softmax_lanes: unsafe fn(&mut [f32], f32, &mut RunningSoftmax),
    pub(super) fold_lanes: unsafe fn(&mut [f32], &[f32], &[f32; PANEL]),
    pub(super) add_scaled: unsafe fn(&mut [f32], &[f32], f32),
    pub(super) round: unsafe fn(&[f32], &mut [bf16]),
}

impl Elementwise {
    /// The instruction set they need.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// `up = activation(gate, up)`.
    ///
    /// # Panics
    /// If the lengths differ or there are no loops for the activation.
    pub fn activate_gated(&self, activation: Activation, gate: &[f32], up: &mut [f32]) {
        assert_eq!(gate.len(), up.len(), "gate and up");
        // SAFETY: `all` and `select` give only tables whose instruction set runs here.
        unsafe { (self.activate_gated)(activation, gate, up) }
    }

    /// `up = activation(up)`, without a gate.
    ///
    /// # Panics
    /// If there are no loops for the activation.
    pub fn activate(&self, activation: Activation, up: &mut [f32]) {
        // SAFETY: `all` and `select` give only tables whose instruction set runs here.
        unsafe { (self.activate)(activation, up) }
    }

    /// `out = x / sqrt(mean(x²) + eps) · weight`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len(), "x, weight and out");
        // SAFETY: `all` and `select` give only tables whose instruction set runs here.
        unsafe { (self.rms_norm)(x, weight, eps, out) }
    }

    /// `out = (x - mean(x)) / sqrt(variance(x) + eps) · weight + bias`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn layer_norm(&self, x: &[f32], [weight, bias]: [&[f32]; 2], eps: f32, out: &mut [f32]) {
        let len = x.len();
        let same = weight.len() == len && bias.len() == len && out.len() == len;
        assert!(same, "x, weight, bias and out");
        // SAFETY: `all` and `select` give only tables whose instruction set runs here.
        unsafe { (self.layer_norm)(x, [weight, bias], eps, out) }
    }

    /// Turns the next block of scores [_, PANEL] into weights: `exp(scale · (score - max))`, for
    /// the largest score of the lane so far.
    pub fn softmax_lanes(&self, scores: &mut [f32], scale: f32, running: &mut RunningSoftmax) {
        // SAFETY: `all` and `select` give only tables whose instruction set runs here.
        unsafe { (self.softmax_lanes)(scores, scale, running) }
    }

    /// `sums = sums · shrink + values`, all [_, PANEL], by the last block of `running`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn fold_lanes(&self, sums: &mut [f32], values: &[f32], running: &RunningSoftmax) {
        assert_eq!(sums.len(), values.len(), "sums and values");
        // SAFETY: `all` and `select` give only tables whose instruction set runs here.
        unsafe { (self.fold_lanes)(sums, values, &running.shrink) }
    }

    /// `values = softmax(scale · values)`.
    pub fn softmax(&self, values: &mut [f32], scale: f32) {
        // SAFETY: `all` and `select` give only tables whose instruction set runs here.
        unsafe { (self.softmax)(values, scale) }
    }

    /// `values = softmax(scale · values, sink)` without the last: the sink, which is not multiplied
    /// by the scale, has part of the weight.
    pub fn softmax_with_sink(&self, values: &mut [f32], scale: f32, sink: f32) {
        // SAFETY: `all` and `select` give only tables whose instruction set runs here.
        unsafe { (self.softmax_with_sink)(values, scale, sink) }
    }

    /// `out += factor · values`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add_scaled(&self, out: &mut [f32], values: &[f32], factor: f32) {
        assert_eq!(out.len(), values.len(), "out and values");
        // SAFETY: `all` and `select` give only tables whose instruction set runs here.
        unsafe { (self.add_scaled)(out, values, factor) }
    }

    /// Rounds to nearest, ties to even.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn round(&self, values: &[f32], out: &mut [bf16]) {
        assert_eq!(values.len(), out.len(), "values and out");
        // SAFETY: `all` and `select` give only tables whose instruction set runs here.
        unsafe { (self.round)(values, out) }
    }
}
