//! The portable loops, compiled for wider vectors.

use half::bf16;
use moexperts_core::Activation;

use super::{
    portable,
    table::{Elementwise, RunningSoftmax},
};
use crate::{isa::Isa, product::PANEL};

/// A module with every loop of `portable` compiled with the given features, and their table:
/// `#[target_feature(enable = $features)] fn softmax(…) { portable::softmax(…) }` and so on.
macro_rules! compiled_for {
    ($module:ident, $isa:expr, $features:literal) => {
        pub(super) mod $module {
            use super::*;

            pub(crate) const KERNELS: Elementwise = Elementwise {
                isa: $isa,
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

            #[target_feature(enable = $features)]
            fn activate_gated(activation: Activation, gate: &[f32], up: &mut [f32]) {
                portable::activate_gated(activation, gate, up);
            }

            #[target_feature(enable = $features)]
            fn activate(activation: Activation, up: &mut [f32]) {
                portable::activate(activation, up);
            }

            #[target_feature(enable = $features)]
            fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
                portable::rms_norm(x, weight, eps, out);
            }

            #[target_feature(enable = $features)]
            fn layer_norm(x: &[f32], [weight, bias]: [&[f32]; 2], eps: f32, out: &mut [f32]) {
                portable::layer_norm(x, [weight, bias], eps, out);
            }

            #[target_feature(enable = $features)]
            fn softmax_lanes(scores: &mut [f32], scale: f32, running: &mut RunningSoftmax) {
                portable::softmax_lanes(scores, scale, running);
            }

            #[target_feature(enable = $features)]
            fn fold_lanes(sums: &mut [f32], values: &[f32], shrink: &[f32; PANEL]) {
                portable::fold_lanes(sums, values, shrink);
            }

            #[target_feature(enable = $features)]
            fn softmax(values: &mut [f32], scale: f32) {
                portable::softmax(values, scale);
            }

            #[target_feature(enable = $features)]
            fn softmax_with_sink(values: &mut [f32], scale: f32, sink: f32) {
                portable::softmax_with_sink(values, scale, sink);
            }

            #[target_feature(enable = $features)]
            fn add_scaled(out: &mut [f32], values: &[f32], factor: f32) {
                portable::add_scaled(out, values, factor);
            }

            #[target_feature(enable = $features)]
            fn round(values: &[f32], out: &mut [bf16]) {
                portable::round(values, out);
            }
        }
    };
}

compiled_for!(avx2, Isa::Avx2, "avx2,fma");
compiled_for!(avx512, Isa::Avx512, "avx512f,avx512bw,avx512dq,avx512vl");
