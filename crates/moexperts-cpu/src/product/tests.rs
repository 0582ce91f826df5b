//! Every listed kernel against plain sums in f64.

use moexperts_core::Tensor;
use proptest::prelude::*;

use super::*;

/// Values in `-1 .. 1` that repeat with no period near a block size.
fn values(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f64::from(state) / f64::from(u32::MAX) * 2.0 - 1.0
    };
    (0..len).map(|_| next() as f32).collect()
}

/// Runs one kernel and compares every output with its allowance
/// `cols · eps(f32) · Σ|x||w| + 2 · eps(inputs) · Σ|x||w|`.
fn check(kernel: Kernel, inputs: usize, outputs: usize, cols: usize, seed: u32) {
    let x = Tensor::from_vec(inputs, cols, values(inputs * cols, seed)).unwrap();
    let stride = cols + (seed as usize % 3);
    let stored = values(outputs * stride, seed + 1);
    let whole = Matrix::from_f32(1, outputs * stride, &stored, kernel.weights()).unwrap();
    let weights = Weights { elements: whole.elements(), rows: outputs, cols, row_stride: stride };
    // Every row once, then the last again unless it is the only one (a tile of one row), in an
    // order that is not the stored one.
    let again = (inputs > 1).then(|| inputs as u32 - 1);
    let rows: Vec<u32> = (0..inputs as u32).rev().chain(again).collect();
    let mut rounded = Vec::new();
    let prepared = kernel.prepare(x.data(), &mut rounded);
    let mut out = vec![f32::NAN; rows.len() * outputs];
    kernel.run(prepared, &rows, weights, 0..outputs, &mut out);
    for (place, &row) in rows.iter().enumerate() {
        for output in 0..outputs {
            let w = weights.elements.slice(output * stride..output * stride + cols).to_f32();
            let terms =
                || x.row(row as usize).iter().zip(&w).map(|(&x, &w)| f64::from(x) * f64::from(w));
            let expected: f64 = terms().sum();
            let magnitude: f64 = terms().map(f64::abs).sum();
            let rounding = if kernel.inputs() == DType::Bf16 { DType::Bf16.epsilon() } else { 0.0 };
            let allowance = (cols as f64 * DType::F32.epsilon() + rounding) * magnitude;
            let got = f64::from(out[place * outputs + output]);
            assert!(
                (got - expected).abs() <= allowance,
                "{} {} [{inputs}, {cols}] x [{outputs}, {cols}] at [{place}, {output}]: \
                 {got} against {expected}, allowed {allowance:e}",
                kernel.isa(),
                kernel.weights(),
            );
        }
    }
}

#[test]
fn every_kernel_matches_the_reference_at_every_edge() {
    for kernel in Kernel::all() {
        for cols in [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 257] {
            for inputs in [0, 1, 2, 3, 4, 5, 6, 7, 11] {
                for outputs in [0, 1, 3, 4, 5, 9] {
                    check(kernel, inputs, outputs, cols, (cols + inputs + outputs) as u32);
                }
            }
        }
        check(kernel, BLOCK_INPUTS, BLOCK_OUTPUTS, 2048, 5);
    }
}

#[test]
fn an_output_does_not_depend_on_its_neighbours() {
    for kernel in Kernel::all() {
        let (inputs, outputs, cols) = (13, 11, 300);
        let x = values(inputs * cols, 1);
        let w =
            Matrix::from_f32(outputs, cols, &values(outputs * cols, 2), kernel.weights()).unwrap();
        let rows: Vec<u32> = (0..inputs as u32).collect();
        let mut rounded = Vec::new();
        let prepared = kernel.prepare(&x, &mut rounded);
        let mut whole = vec![0.0; inputs * outputs];
        kernel.run(prepared, &rows, (&w).into(), 0..outputs, &mut whole);
        for row in 0..inputs {
            for output in 0..outputs {
                let mut single = [0.0];
                let range = output..output + 1;
                kernel.run(prepared, &[row as u32], (&w).into(), range, &mut single);
                assert_eq!(single[0].to_bits(), whole[row * outputs + output].to_bits());
            }
        }
    }
}

#[test]
fn a_number_that_is_none_stays_in_its_row() {
    for kernel in Kernel::all() {
        let mut x = values(4 * 40, 3);
        x[2 * 40 + 39] = f32::NAN;
        x[40] = f32::INFINITY;
        let w = Matrix::from_f32(4, 40, &[0.5; 160], kernel.weights()).unwrap();
        let mut rounded = Vec::new();
        let prepared = kernel.prepare(&x, &mut rounded);
        let mut out = [0.0; 16];
        kernel.run(prepared, &[0, 1, 2, 3], (&w).into(), 0..4, &mut out);
        assert!(out[..4].iter().chain(&out[12..]).all(|value| value.is_finite()));
        assert!(out[4..8].iter().all(|value| *value == f32::INFINITY));
        assert!(out[8..12].iter().all(|value| value.is_nan()));
    }
}

#[test]
fn there_is_a_kernel_for_every_dtype_at_every_instruction_set() {
    for isa in Isa::ALL {
        for dtype in DType::ALL {
            let kernel = Kernel::select(isa, dtype);
            assert!(kernel.isa() <= isa && kernel.weights() == dtype);
        }
    }
}

proptest! {
    #[test]
    fn every_kernel_matches_the_reference(
        inputs in 0_usize..20, outputs in 0_usize..20, cols in 0_usize..600, seed in 0_u32..1000,
    ) {
        for kernel in Kernel::all() {
            check(kernel, inputs, outputs, cols, seed);
        }
    }
}
