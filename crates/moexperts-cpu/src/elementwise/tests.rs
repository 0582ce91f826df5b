//! Every listed kernel against the formulas in f64, and against the portable one bit for bit.

use moexperts_core::reference;

use super::*;
use crate::product::PANEL;

fn values(len: usize, seed: f32, reach: f32) -> Vec<f32> {
    (0..len).map(|i| ((i as f32 * 0.618_034 + seed).fract() - 0.5) * 2.0 * reach).collect()
}

/// How much a relative error of the input of an activation grows: by the exponent of its sigmoid.
fn condition(z: f32) -> f64 {
    let z = f64::from(z).abs();
    1.0 + 2.0 * z + 0.1 * z.powi(3)
}

fn assert_near(got: f32, expected: f64, scale: f64, what: &str) {
    // The f64 formulas themselves cancel below 1e-14: `1 + tanh(u)` at large negative u.
    let allowance = 8.0 * f64::from(f32::EPSILON) * scale.max(expected.abs()) + 1e-14;
    assert!((f64::from(got) - expected).abs() <= allowance, "{what}: {got} against {expected}");
}

#[test]
fn the_exponential_is_within_two_units_in_the_last_place() {
    for step in -87_000..=87_000 {
        let x = step as f32 / 1000.0;
        let exact = f64::from(x).exp();
        let error = (f64::from(portable::exp(x)) - exact).abs() / exact;
        assert!(error <= 2.0 * f64::from(f32::EPSILON), "exp({x}) is off by {error:e}");
    }
    assert!(portable::exp(f32::NAN).is_nan());
    assert_eq!(portable::exp(0.0), 1.0);
    assert!(portable::exp(f32::NEG_INFINITY) < 2e-38 && portable::exp(f32::INFINITY) > 6e37);
}

#[test]
fn every_kernel_matches_the_reference_and_the_portable_bits() {
    for set in Elementwise::all() {
        for len in [1, 2, 7, 8, 15, 16, 17, 31, 33, 100] {
            let (x, y) = (values(len, 0.1, 12.0), values(len, 0.7, 12.0));
            for activation in Activation::ALL {
                let mut out = y.clone();
                set.activate_gated(activation, &x, &mut out);
                for i in 0..len {
                    let (gate, up) = (f64::from(x[i]), f64::from(y[i]));
                    let expected = reference::activate_gated(activation, gate, up);
                    assert_near(
                        out[i],
                        expected,
                        condition(x[i]) * expected.abs(),
                        activation.name(),
                    );
                }
                let mut bits = y.clone();
                portable::KERNELS.activate_gated(activation, &x, &mut bits);
                assert_eq!(out, bits, "{} {len}", set.isa());

                let mut out = x.clone();
                set.activate(activation, &mut out);
                for (out, x) in out.iter().zip(&x) {
                    let expected = reference::activate(activation, f64::from(*x));
                    assert_near(*out, expected, condition(*x) * expected.abs(), activation.name());
                }
            }
            check_reductions(&set, &x, &y);
        }
    }
}

fn check_reductions(set: &Elementwise, x: &[f32], y: &[f32]) {
    let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let (wide_x, wide_y) = (wide(x), wide(y));

    let mut out = vec![0.0; x.len()];
    set.rms_norm(x, y, 1e-5, &mut out);
    let mean = wide_x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    for i in 0..x.len() {
        assert_near(out[i], wide_x[i] / (mean + 1e-5).sqrt() * wide_y[i], 0.0, "rms_norm");
    }
    let mut bits = vec![0.0; x.len()];
    portable::KERNELS.rms_norm(x, y, 1e-5, &mut bits);
    assert_eq!(out, bits, "{}", set.isa());

    let mut out = vec![0.0; x.len()];
    set.layer_norm(x, [y, x], 1e-5, &mut out);
    let mut bits = vec![0.0; x.len()];
    portable::KERNELS.layer_norm(x, [y, x], 1e-5, &mut bits);
    assert_eq!(out, bits, "{}", set.isa());

    let mut out = x.to_vec();
    set.softmax(&mut out, 0.25);
    let scores: Vec<f64> = wide_x.iter().map(|x| x * 0.25).collect();
    for (&out, expected) in out.iter().zip(reference::softmax(&scores, None)) {
        assert_near(out, expected, 0.0, "softmax");
    }
    // Among the scores, above and below them.
    for sink in [0.5, 7.0, -20.0] {
        let mut out = x.to_vec();
        set.softmax_with_sink(&mut out, 0.25, sink);
        for (&out, expected) in out.iter().zip(reference::softmax(&scores, Some(sink.into()))) {
            // The sink is subtracted from scores of a few units.
            assert_near(out, expected, 4.0 * expected, "softmax_with_sink");
        }
        let mut bits = x.to_vec();
        portable::KERNELS.softmax_with_sink(&mut bits, 0.25, sink);
        assert_eq!(out, bits, "{}", set.isa());
    }

    let mut out = y.to_vec();
    set.add_scaled(&mut out, x, 0.3);
    for i in 0..x.len() {
        let product = f64::from(0.3_f32) * wide_x[i];
        assert_near(out[i], wide_y[i] + product, wide_y[i].abs() + product.abs(), "add_scaled");
    }
}

#[test]
fn a_softmax_by_lanes_and_blocks_is_that_of_each_lane() {
    for set in Elementwise::all() {
        let scores = values(40 * PANEL, 0.3, 9.0);
        let (mut running, mut sums) = (RunningSoftmax::new(), vec![0.0; PANEL]);
        let (mut same, mut same_sums) = (RunningSoftmax::new(), vec![0.0; PANEL]);
        // The weighted sum of the places 0, 1, 2, …
        for (block, part) in scores.chunks(12 * PANEL).enumerate() {
            let step = |set: &Elementwise, running: &mut RunningSoftmax, sums: &mut Vec<f32>| {
                let mut part = part.to_vec();
                set.softmax_lanes(&mut part, 0.5, running);
                let mut values = vec![0.0; PANEL];
                for (row, weights) in part.chunks(PANEL).enumerate() {
                    set.add_scaled(&mut values, weights, (12 * block + row) as f32);
                }
                set.fold_lanes(sums, &values, running);
            };
            step(&set, &mut running, &mut sums);
            step(&portable::KERNELS, &mut same, &mut same_sums);
        }
        assert_eq!(sums, same_sums, "{}", set.isa());
        for lane in 0..PANEL {
            let column = || (0..40).map(|row| f64::from(scores[row * PANEL + lane]));
            let max = column().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = column().map(|score| ((score - max) * 0.5).exp()).collect();
            let expected: f64 = weights.iter().enumerate().map(|(row, w)| row as f64 * w).sum();
            assert_near(sums[lane], expected, 40.0 * expected, "sum");
            assert_near(running.sum()[lane], weights.iter().sum(), 40.0, "total");
        }
    }
}

#[test]
fn nan_stays_nan() {
    for set in Elementwise::all() {
        for activation in Activation::ALL {
            let mut up = [1.0; 20];
            set.activate_gated(activation, &[f32::NAN; 20], &mut up);
            assert!(up.iter().all(|value| value.is_nan()), "{}", activation.name());
            let mut up = [f32::NAN; 20];
            set.activate_gated(activation, &[1.0; 20], &mut up);
            assert!(up.iter().all(|value| value.is_nan()), "{}", activation.name());
            let mut up = [f32::NAN; 20];
            set.activate(activation, &mut up);
            assert!(up.iter().all(|value| value.is_nan()), "{}", activation.name());
        }
    }
}

#[test]
fn a_softmax_of_far_apart_values_stays_finite() {
    for set in Elementwise::all() {
        let mut values = [1000.0, -1000.0, 999.0];
        set.softmax(&mut values, 1.0);
        assert!(values.iter().all(|value| value.is_finite()));
        assert!((values[0] - 0.731_058_6).abs() < 1e-6);
        for (sink, expected) in [(1000.0, 0.5), (-1e30, 1.0), (f32::NEG_INFINITY, 1.0), (2e4, 0.0)]
        {
            let mut values = [1000.0, -1000.0];
            set.softmax_with_sink(&mut values, 1.0, sink);
            assert!((values[0] - expected).abs() < 1e-6 && values[1] < 1e-6, "{values:?}");
        }
    }
}
