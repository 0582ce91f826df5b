//! The loops, free of instructions. Each is `inline(always)` so that `x86` compiles it again with
//! more features.

use half::bf16;
use moexperts_core::{Activation, GateFunction};

use super::table::{Elementwise, RunningSoftmax};
use crate::{isa::Isa, product::PANEL};

/// Partial sums of one reduction.
const LANES: usize = 16;

pub(crate) const KERNELS: Elementwise = Elementwise {
    isa: Isa::Portable,
    activate_gated,
    activate,
    rms_norm,
    layer_norm,
    softmax,
    softmax_with_sink,
    softmax_lanes,
    fold_lanes,
    add_scaled,
    round,
};

/// Whether [`activate_gated`] and [`activate`] have an activation.
pub(super) fn has_activation(activation: Activation) -> bool {
    matches!(
        activation,
        Activation::Silu
            | Activation::Gelu
            | Activation::GeluTanh
            | Activation::ClampedSwiglu { .. }
            | Activation::ClampedSilu { .. }
            | Activation::Relu2
    )
}

#[inline(always)]
pub(super) fn activate_gated(activation: Activation, gate: &[f32], up: &mut [f32]) {
    match activation {
        Activation::Silu => zip(gate, up, |gate, up| gate * sigmoid(gate) * up),
        Activation::Gelu => zip(gate, up, |gate, up| gelu(gate) * up),
        Activation::GeluTanh => zip(gate, up, |gate, up| gelu_tanh(gate) * up),
        Activation::ClampedSwiglu { alpha, limit } => zip(gate, up, |gate, up| {
            let gate = at_most(gate, limit);
            (at_least(at_most(up, limit), -limit) + 1.0) * (gate * sigmoid(alpha * gate))
        }),
        Activation::ClampedSilu { limit } => zip(gate, up, |gate, up| {
            let gate = at_most(gate, limit);
            gate * sigmoid(gate) * at_least(at_most(up, limit), -limit)
        }),
        Activation::Relu2 => zip(gate, up, |gate, up| relu2(gate) * up),
        _ => unreachable!("`has_activation` refuses it"),
    }
}

#[inline(always)]
pub(super) fn activate(activation: Activation, up: &mut [f32]) {
    match activation {
        Activation::Silu => each(up, |z| z * sigmoid(z)),
        Activation::Gelu => each(up, gelu),
        Activation::GeluTanh => each(up, gelu_tanh),
        Activation::ClampedSwiglu { alpha, limit } => each(up, |z| {
            let z = at_most(z, limit);
            z * sigmoid(alpha * z)
        }),
        Activation::ClampedSilu { limit } => each(up, |z| {
            let z = at_most(z, limit);
            z * sigmoid(z)
        }),
        Activation::Relu2 => each(up, relu2),
        _ => unreachable!("`has_activation` refuses it"),
    }
}

#[inline(always)]
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = lanes(x, 0.0, |sum, x| sum + x * x, |a, b| a + b) / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

#[inline(always)]
pub(super) fn layer_norm(x: &[f32], [weight, bias]: [&[f32]; 2], eps: f32, out: &mut [f32]) {
    let mean = lanes(x, 0.0, |sum, x| sum + x, |a, b| a + b) / x.len() as f32;
    let squares = |sum, x| sum + (x - mean) * (x - mean);
    let variance = lanes(x, 0.0, squares, |a, b| a + b) / x.len() as f32;
    let scale = 1.0 / (variance + eps).sqrt();
    for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = (x - mean) * scale * weight + bias;
    }
}

#[inline(always)]
pub(super) fn softmax_lanes(scores: &mut [f32], scale: f32, running: &mut RunningSoftmax) {
    let mut max = running.max;
    for scores in scores.chunks_exact(PANEL) {
        for (max, &score) in max.iter_mut().zip(scores) {
            *max = if score > *max { score } else { *max };
        }
    }
    for lane in 0..PANEL {
        running.shrink[lane] = exp((running.max[lane] - max[lane]) * scale);
        running.sum[lane] *= running.shrink[lane];
    }
    running.max = max;
    let mut sum = running.sum;
    for scores in scores.chunks_exact_mut(PANEL) {
        for ((score, max), sum) in scores.iter_mut().zip(&max).zip(&mut sum) {
            *score = exp((*score - max) * scale);
            *sum += *score;
        }
    }
    running.sum = sum;
}

#[inline(always)]
pub(super) fn fold_lanes(sums: &mut [f32], values: &[f32], shrink: &[f32; PANEL]) {
    for (sums, values) in sums.chunks_exact_mut(PANEL).zip(values.chunks_exact(PANEL)) {
        for ((sum, value), shrink) in sums.iter_mut().zip(values).zip(shrink) {
            *sum = *sum * shrink + value;
        }
    }
}

#[inline(always)]
pub(super) fn softmax(values: &mut [f32], scale: f32) {
    let max = lanes(values, f32::NEG_INFINITY, f32::max, f32::max);
    each(values, |value| exp((value - max) * scale));
    let total = lanes(values, 0.0, |sum, value| sum + value, |a, b| a + b);
    each(values, |value| value / total);
}

/// The factor that a value of a gate becomes.
pub(crate) fn gate_factor(function: GateFunction, z: f32) -> f32 {
    match function {
        GateFunction::Softplus => z.max(0.0) + (-z.abs()).exp().ln_1p(),
        _ => sigmoid(z),
    }
}

#[inline(always)]
pub(super) fn softmax_with_sink(values: &mut [f32], scale: f32, sink: f32) {
    let max = at_least(lanes(values, f32::NEG_INFINITY, f32::max, f32::max) * scale, sink);
    each(values, |value| exp(value * scale - max));
    let total = lanes(values, 0.0, |sum, value| sum + value, |a, b| a + b) + exp(sink - max);
    each(values, |value| value / total);
}

#[inline(always)]
pub(super) fn add_scaled(out: &mut [f32], values: &[f32], factor: f32) {
    for (out, value) in out.iter_mut().zip(values) {
        *out += factor * value;
    }
}

/// The upper half, plus one where the lower half is more than half a unit, or half of one and the
/// upper half odd. NaN stays NaN, with the quiet bit set.
#[inline(always)]
pub(super) fn round(values: &[f32], out: &mut [bf16]) {
    for (out, value) in out.iter_mut().zip(values) {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        let quiet = bits >> 16 | 0x40;
        *out = bf16::from_bits(if value.is_nan() { quiet } else { rounded } as u16);
    }
}

#[inline(always)]
fn zip(gate: &[f32], up: &mut [f32], function: impl Fn(f32, f32) -> f32) {
    for (up, &gate) in up.iter_mut().zip(gate) {
        *up = function(gate, *up);
    }
}

#[inline(always)]
fn each(values: &mut [f32], function: impl Fn(f32) -> f32) {
    for value in values {
        *value = function(*value);
    }
}

/// Folds `values` lane by lane, then the lanes pairwise: an order vectors can follow.
#[inline(always)]
fn lanes(
    values: &[f32],
    start: f32,
    fold: impl Fn(f32, f32) -> f32,
    join: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut sums = [start; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum = fold(*sum, value);
        }
    }
    for (sum, &value) in sums.iter_mut().zip(rest) {
        *sum = fold(*sum, value);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] = join(sums[lane], sums[lane + width]);
        }
        width /= 2;
    }
    sums[0]
}

/// `min` that keeps NaN.
#[inline(always)]
pub(crate) fn at_most(z: f32, limit: f32) -> f32 {
    if z > limit { limit } else { z }
}

/// `max` that keeps NaN.
#[inline(always)]
pub(crate) fn at_least(z: f32, limit: f32) -> f32 {
    if z < limit { limit } else { z }
}

#[inline(always)]
fn relu2(z: f32) -> f32 {
    let positive = at_least(z, 0.0);
    positive * positive
}

/// `z · Φ(z)`: from the normal distribution's tail `erfc(x) / 2` at `x = |z| / √2`, which is
/// `t · exp(-x² + p(t))` with `t = 1 / (1 + x / 2)`, Chebyshev's p within 1.2e-7 of the value
/// anywhere (<https://en.wikipedia.org/wiki/Error_function#Numerical_approximations>).
#[inline(always)]
fn gelu(z: f32) -> f32 {
    let x = z.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * x);
    let mut p = 0.170_872_77;
    p = p * t - 0.822_152_23;
    p = p * t + 1.488_515_9;
    p = p * t - 1.135_204;
    p = p * t + 0.278_868_07;
    p = p * t - 0.186_288_06;
    p = p * t + 0.096_784_18;
    p = p * t + 0.374_091_96;
    p = p * t + 1.000_023_7;
    p = p * t - 1.265_512_2;
    let tail = 0.5 * t * exp(p - x * x);
    z * if z < 0.0 { tail } else { 1.0 - tail }
}

/// `z · (1 + tanh(u)) / 2` with `u = sqrt(2/π) · (z + 0.044715 z³)`, as `z · sigmoid(2u)`.
#[inline(always)]
fn gelu_tanh(z: f32) -> f32 {
    const TWO_SQRT_2_OVER_PI: f32 = 1.595_769;
    z * sigmoid(TWO_SQRT_2_OVER_PI * (z + 0.044_715 * z * z * z))
}

#[inline(always)]
pub(crate) fn sigmoid(z: f32) -> f32 {
    1.0 / (1.0 + exp(-z))
}

/// `e^x` within two units in the last place; x beyond ±87 counts as ±87, NaN stays NaN.
///
/// `x = n ln 2 + r` with integer n and |r| <= ln 2 / 2; a polynomial for `e^r` (the coefficients
/// are Cephes' `expf`), and n goes into the exponent bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding this rounds to an integer and leaves it in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = at_least(at_most(x, 87.0), -87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5e-1;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    (p * r * r + r + 1.0) * power
}
