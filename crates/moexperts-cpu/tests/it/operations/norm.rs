//! Norms.

use moexperts_core::{Operations, Tensor, Tuning, made};
use moexperts_cpu::Cpu;

use super::{ROUNDING, assert_near, is_shape_error, wide};
use crate::common::{bits, devices, devices_by_threads, tensor, values};

#[test]
fn an_rms_norm_covers_a_row_or_each_head_of_it() {
    for cpu in devices() {
        for (rows, cols, width) in [(5, 67, 67), (3, 64, 64), (4, 96, 32), (2, 35, 5), (6, 7, 1)] {
            check_rms_norm(&cpu, [rows, cols], width);
        }
        let x = Tensor::zeros(1, 6);
        assert!(is_shape_error(made(|out| cpu.rms_norm(&x, &vec![1.0; 4], 1e-5, out))));
        assert!(is_shape_error(made(|out| cpu.rms_norm(&x, &Vec::new(), 1e-5, out))));
    }
}

/// Compares the norm of rows by parts of `width` values with the formula.
pub(super) fn check_rms_norm(cpu: &Cpu, [rows, cols]: [usize; 2], width: usize) {
    let (mut x, weight) = (tensor(rows, cols, 4), values(width, 5));
    // A row of small values, against which `eps` counts.
    x.row_mut(rows - 1).iter_mut().for_each(|value| *value *= 1e-3);
    let out = made(|out| cpu.rms_norm(&x, &weight, 1e-5, out)).unwrap();
    for at in 0..rows * cols {
        let head = at / width * width..(at / width + 1) * width;
        let head = wide(&x.data()[head]);
        let mean = head.iter().map(|x| x * x).sum::<f64>() / width as f64;
        let eps = f64::from(1e-5_f32);
        let expected = head[at % width] / (mean + eps).sqrt() * f64::from(weight[at % width]);
        let allowance = (width + 8) as f64 * ROUNDING * expected.abs();
        assert_near(out.data()[at], expected, allowance, || {
            format!("{} [{rows}, {cols}] by {width} at {at}", cpu.isa())
        });
    }
}

#[test]
fn a_sum_and_its_norm_at_once_have_the_bits_of_one_after_the_other() {
    for cpu in devices_by_threads().flatten() {
        // The last is shared among threads.
        for (rows, cols, width) in [(0, 8, 8), (1, 67, 67), (5, 96, 32), (6, 7, 1), (300, 160, 80)]
        {
            let (x, y, weight) = (tensor(rows, cols, 4), tensor(rows, cols, 5), values(width, 6));
            let mut sum = x.clone();
            cpu.add(&mut sum, &y, 1.0).unwrap();
            let norm = made(|out| cpu.rms_norm(&sum, &weight, 1e-5, out)).unwrap();
            let mut x = x;
            let out = made(|out| cpu.add_rms_norm(&mut x, &y, 1.0, &weight, 1e-5, out)).unwrap();
            let what = format!("{} [{rows}, {cols}] by {width}", cpu.fingerprint());
            assert_eq!([out.rows(), out.cols()], [rows, cols], "{what}");
            assert_eq!(bits(x.data()), bits(sum.data()), "{what}");
            assert_eq!(bits(out.data()), bits(norm.data()), "{what}");
        }
        let run = |[rows, cols]: [usize; 2], width: usize| {
            let (mut x, y, weight) =
                (Tensor::zeros(2, 6), Tensor::zeros(rows, cols), vec![1.0; width]);
            made(|out| cpu.add_rms_norm(&mut x, &y, 1.0, &weight, 1e-5, out))
        };
        assert!(run([2, 6], 3).is_ok());
        for (shape, width) in [([3, 6], 6), ([2, 3], 3), ([6, 2], 2), ([2, 6], 4), ([2, 6], 0)] {
            assert!(is_shape_error(run(shape, width)), "{shape:?} {width}");
        }
    }
}

#[test]
fn a_layer_norm_has_the_mean_and_the_deviation_of_a_row() {
    for cpu in devices() {
        for (rows, cols) in [(5, 67), (3, 64), (2, 1), (1, 1152)] {
            check_layer_norm(&cpu, [rows, cols]);
        }
        let x = Tensor::zeros(1, 6);
        for (weight, bias) in [(5, 6), (6, 5)] {
            let (weight, bias) = (vec![1.0; weight], vec![1.0; bias]);
            assert!(is_shape_error(made(|out| cpu.layer_norm(&x, &weight, &bias, 1e-5, out))));
        }
    }
}

/// Compares the norm of rows with the formula.
pub(super) fn check_layer_norm(cpu: &Cpu, [rows, cols]: [usize; 2]) {
    let (mut x, weight, bias) = (tensor(rows, cols, 4), values(cols, 5), values(cols, 6));
    // Far from zero, so that the mean matters.
    x.data_mut().iter_mut().for_each(|value| *value += 3.0);
    let out = made(|out| cpu.layer_norm(&x, &weight, &bias, 1e-6, out)).unwrap();
    for at in 0..rows * cols {
        let row = wide(x.row(at / cols));
        let mean = row.iter().sum::<f64>() / cols as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / cols as f64;
        let scale = 1.0 / (variance + f64::from(1e-6_f32)).sqrt();
        let [weight, bias] = [&weight, &bias].map(|v| f64::from(v[at % cols]));
        let expected = (row[at % cols] - mean) * scale * weight + bias;
        // The mean is as exact as its largest term.
        let spread = 4.0 * (cols as f64).sqrt().max(4.0) * ROUNDING * 4.0;
        let allowance = spread * scale * weight.abs() * (1.0 + (expected - bias).abs())
            + 4.0 * ROUNDING * expected.abs().max(bias.abs());
        assert_near(out.data()[at], expected, allowance, || {
            format!("{} [{rows}, {cols}] at {at}", cpu.isa())
        });
    }
}
