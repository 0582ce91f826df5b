//! Every listed kernel against plain sums in f64.

use std::ops::Range;

use half::bf16;
use moexperts_core::{DType, Elements, Matrix, Tensor, WeightFormat};
use proptest::prelude::*;

use super::*;
use crate::{
    isa::Isa,
    tuning::{MAX_BLOCK_OUTPUTS, MAX_BLOCK_PANELS},
};

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

/// The element type of the weights of a kernel.
fn dtype(kernel: Kernel) -> DType {
    kernel.format().dense().expect("these kernels take dense weights")
}

/// Input rows as a kernel takes them.
struct Prepared {
    f32: Vec<f32>,
    bf16: Vec<bf16>,
    dtype: DType,
}

impl Prepared {
    fn new(kernel: Kernel, f32: Vec<f32>) -> Self {
        let bf16 = f32.iter().map(|&value| bf16::from_f32(value)).collect();
        Self { f32, bf16, dtype: kernel.inputs() }
    }

    fn inputs(&self) -> Inputs<'_> {
        if self.dtype == DType::Bf16 { Inputs::Bf16(&self.bf16) } else { Inputs::F32(&self.f32) }
    }

    /// The rows in panels.
    fn panels(&self, kernel: Kernel, rows: &[u32], cols: usize) -> Self {
        let len = rows.len().div_ceil(PANEL) * kernel.panel_len(cols);
        // Earlier contents must not matter.
        let mut panels =
            Self { f32: vec![f32::NAN; len], bf16: vec![bf16::NAN; len], dtype: self.dtype };
        if cols > 0 {
            let size = kernel.panel_len(cols);
            for (panel, rows) in rows.chunks(PANEL).enumerate() {
                let place = panel * size..(panel + 1) * size;
                if self.dtype == DType::Bf16 {
                    pack(&self.bf16, rows, cols, &mut panels.bf16[place]);
                } else {
                    pack(&self.f32, rows, cols, &mut panels.f32[place]);
                }
            }
        }
        panels
    }
}

/// The results of one form of a kernel, `[rows, outputs]`.
fn run(
    kernel: Kernel,
    lanes: bool,
    x: &Prepared,
    rows: &[u32],
    weights: Weights<'_>,
    outputs: Range<usize>,
) -> Vec<f32> {
    let count = outputs.len();
    if !lanes {
        let mut out = vec![f32::NAN; rows.len() * count];
        let then =
            Some(Then { weights, row: weights.rows / 2 }).filter(|_| rows.len().is_multiple_of(2));
        kernel.dot(x.inputs(), rows, weights, outputs, then, &mut out);
        return out;
    }
    let panels = x.panels(kernel, rows, weights.cols);
    let mut out = vec![f32::NAN; rows.len().div_ceil(PANEL) * count * PANEL];
    kernel.lanes(panels.inputs(), weights, outputs, &mut out);
    let at = |row: usize, output: usize| out[(row / PANEL * count + output) * PANEL + row % PANEL];
    (0..rows.len()).flat_map(|row| (0..count).map(move |output| at(row, output))).collect()
}

/// Runs both forms of a kernel and compares every output with its allowance
/// `cols · eps(f32) · Σ|x||w| + 2 · eps(inputs) · Σ|x||w|`.
fn check(kernel: Kernel, inputs: usize, outputs: usize, cols: usize, seed: u32) {
    let x = Tensor::from_vec(inputs, cols, values(inputs * cols, seed)).unwrap();
    let stride = cols + (seed as usize % 3);
    let mut stored = values(outputs * stride, seed + 1);
    // Values between the rows must not matter.
    stored.chunks_mut(stride.max(1)).for_each(|row| row[cols..].fill(f32::NAN));
    let whole = Matrix::from_f32(1, outputs * stride, &stored, dtype(kernel)).unwrap();
    let weights = Weights { elements: whole.elements(), rows: outputs, cols, row_stride: stride };
    // Every row once, then the last again unless it is the only one (a tile of one row), in an
    // order that is not the stored one.
    let again = (inputs > 1).then(|| inputs as u32 - 1);
    let rows: Vec<u32> = (0..inputs as u32).rev().chain(again).collect();
    let prepared = Prepared::new(kernel, x.data().to_vec());
    for lanes in [false, true] {
        let out = run(kernel, lanes, &prepared, &rows, weights, 0..outputs);
        for (place, &row) in rows.iter().enumerate() {
            for output in 0..outputs {
                let w = weights.elements.slice(output * stride..output * stride + cols).to_f32();
                let terms = || {
                    x.row(row as usize).iter().zip(&w).map(|(&x, &w)| f64::from(x) * f64::from(w))
                };
                let expected: f64 = terms().sum();
                let magnitude: f64 = terms().map(f64::abs).sum();
                let rounding =
                    if kernel.inputs() == DType::Bf16 { DType::Bf16.epsilon() } else { 0.0 };
                let allowance = (cols as f64 * DType::F32.epsilon() + rounding) * magnitude;
                let got = f64::from(out[place * outputs + output]);
                assert!(
                    (got - expected).abs() <= allowance,
                    "{} {} lanes: {lanes} [{inputs}, {cols}] x [{outputs}, {cols}] at \
                     [{place}, {output}]: {got} against {expected}, allowed {allowance:e}",
                    kernel.isa(),
                    kernel.format(),
                );
            }
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
        // Several panels, tiles of every height, and more columns than are multiplied at once.
        for outputs in 1..=17 {
            check(kernel, 40, outputs, 70, outputs as u32);
        }
        check(kernel, 15, 48, 2048, 5);
        check(kernel, 47, 13, 4099, 6);
        check(kernel, 130, 9, 700, 7);
    }
}

#[test]
fn any_number_of_panels_meets_any_number_of_weight_rows() {
    for kernel in Kernel::all().filter(|kernel| kernel.isa() != Isa::Portable) {
        for outputs in [1, 15, 16, 17, 31, 32, 33, 48, 49, MAX_BLOCK_OUTPUTS] {
            for panels in 1..=MAX_BLOCK_PANELS + 1 {
                let cols = [1, 31, 32, 33, 63, 64, 65][(outputs + panels) % 7];
                check(kernel, panels * PANEL - panels % 3, outputs, cols, panels as u32);
            }
        }
        // The columns are cut, and the last of them fill no tile.
        check(kernel, MAX_BLOCK_PANELS * PANEL, 50, 2079, 8);
        check(kernel, 3 * PANEL, 33, 2049, 9);
    }
}

/// Values after which there is no memory.
#[cfg(target_os = "linux")]
struct AtTheEnd {
    memory: memmap2::MmapMut,
    start: usize,
}

#[cfg(target_os = "linux")]
impl AtTheEnd {
    fn new(values: &[u8]) -> Self {
        const PAGE: usize = 4096;
        let len = values.len().next_multiple_of(PAGE);
        // Pages are given back, because the page after another map may be in use.
        let mut memory = memmap2::MmapMut::map_anon(len + 64 * PAGE).unwrap();
        // SAFETY: nothing points into it yet.
        unsafe { memory.remap(len, memmap2::RemapOptions::new()).unwrap() };
        let start = len - values.len();
        memory[start..].copy_from_slice(values);
        Self { memory, start }
    }

    fn values<T: bytemuck::Pod>(&self) -> &[T] {
        bytemuck::cast_slice(&self.memory[self.start..])
    }
}

#[test]
#[cfg(target_os = "linux")]
fn nothing_beyond_the_last_value_is_read() {
    let inputs = 3 * PANEL;
    let rows: Vec<u32> = (0..inputs as u32).collect();
    for kernel in Kernel::all() {
        for cols in [1, 30, 31, 32, 33, 65] {
            for outputs in [1, 7, 15, 17, 33] {
                let x = Prepared::new(kernel, values(inputs * cols, 1));
                let panels = x.panels(kernel, &rows, cols);
                let stored = values(outputs * cols, 2);
                let near = Matrix::from_f32(outputs, cols, &stored, dtype(kernel)).unwrap();
                let far = match near.elements() {
                    Elements::F32(values) => AtTheEnd::new(bytemuck::cast_slice(values)),
                    Elements::F16(values) => AtTheEnd::new(bytemuck::cast_slice(values)),
                    Elements::Bf16(values) => AtTheEnd::new(bytemuck::cast_slice(values)),
                };
                let elements = match dtype(kernel) {
                    DType::F32 => Elements::F32(far.values()),
                    DType::F16 => Elements::F16(far.values()),
                    DType::Bf16 => Elements::Bf16(far.values()),
                };
                let far = Weights { elements, ..(&near).into() };
                for (lanes, x) in [(false, &x), (true, &panels)] {
                    let far_x = match x.inputs() {
                        Inputs::F32(values) => AtTheEnd::new(bytemuck::cast_slice(values)),
                        Inputs::Bf16(values) => AtTheEnd::new(bytemuck::cast_slice(values)),
                    };
                    let far_x = match x.dtype {
                        DType::Bf16 => Inputs::Bf16(far_x.values()),
                        _ => Inputs::F32(far_x.values()),
                    };
                    let multiply = |x, weights| {
                        let mut out = vec![f32::NAN; inputs * outputs];
                        if lanes {
                            kernel.lanes(x, weights, 0..outputs, &mut out);
                        } else {
                            kernel.dot(x, &rows, weights, 0..outputs, None, &mut out);
                        }
                        out
                    };
                    assert_eq!(multiply(far_x, far), multiply(x.inputs(), (&near).into()));
                }
            }
        }
    }
}

#[test]
fn an_output_does_not_depend_on_its_neighbours() {
    for kernel in Kernel::all() {
        // Enough panels that the columns are cut where a single row's are not.
        let (inputs, outputs, cols) = (113, 35, 1500);
        let x = Prepared::new(kernel, values(inputs * cols, 1));
        let w = Matrix::from_f32(outputs, cols, &values(outputs * cols, 2), dtype(kernel)).unwrap();
        let rows: Vec<u32> = (0..inputs as u32).collect();
        for lanes in [false, true] {
            let whole = run(kernel, lanes, &x, &rows, (&w).into(), 0..outputs);
            for row in (0..inputs).step_by(7) {
                for output in 0..outputs {
                    let range = output..output + 1;
                    let single = run(kernel, lanes, &x, &[row as u32], (&w).into(), range);
                    assert_eq!(single[0].to_bits(), whole[row * outputs + output].to_bits());
                }
            }
        }
    }
}

#[test]
fn values_in_rows_are_panels_too() {
    for kernel in Kernel::all().filter(|kernel| kernel.format() == WeightFormat::F32) {
        let (positions, width, heads) = (37, 3 * PANEL, 9);
        let values_ = values(positions * width, 1);
        let weights = values(heads * positions, 2);
        let weights = Weights::from_f32(&weights, heads, positions, positions);
        let mut out = vec![f32::NAN; 2 * heads * PANEL];
        kernel.lanes_in_rows(&values_[PANEL..], 2, width, weights, &mut out);
        for (index, &got) in out.iter().enumerate() {
            let (panel, head, lane) = (index / PANEL / heads, index / PANEL % heads, index % PANEL);
            let term = |position: usize| {
                let value = values_[position * width + PANEL + panel * PANEL + lane];
                f64::from(weights.elements.get(head * positions + position)) * f64::from(value)
            };
            let expected: f64 = (0..positions).map(term).sum();
            assert!((f64::from(got) - expected).abs() < 1e-4, "{got} against {expected}");
        }
    }
}

#[test]
fn rows_are_divided_into_panels_and_the_rest() {
    for kernel in Kernel::all() {
        let few = match (kernel.isa(), kernel.format()) {
            (Isa::AmxBf16, _) => 6,
            (_, WeightFormat::F32) => 7,
            _ => 12,
        };
        for (rows, expected) in [
            (0, (0, 0)),
            (few, (0, 0)),
            (few + 1, (few + 1, 1)),
            (16, (16, 1)),
            (16 + few, (16, 1)),
            (17 + few, (17 + few, 2)),
        ] {
            assert_eq!(kernel.in_panels(rows), expected, "{kernel:?} {rows}");
        }
    }
}

#[test]
fn nan_stays_in_its_row() {
    for kernel in Kernel::all() {
        let mut x = values(4 * 40, 3);
        x[2 * 40 + 39] = f32::NAN;
        x[40] = f32::INFINITY;
        let w = Matrix::from_f32(4, 40, &[0.5; 160], dtype(kernel)).unwrap();
        let prepared = Prepared::new(kernel, x);
        for lanes in [false, true] {
            let out = run(kernel, lanes, &prepared, &[0, 1, 2, 3], (&w).into(), 0..4);
            assert!(out[..4].iter().chain(&out[12..]).all(|value| value.is_finite()));
            assert!(out[4..8].iter().all(|value| *value == f32::INFINITY));
            assert!(out[8..12].iter().all(|value| value.is_nan()));
        }
    }
}

#[test]
fn a_nan_among_the_weights_stays_in_its_output() {
    for kernel in Kernel::all() {
        for cols in [33, 40] {
            let mut w = values(20 * cols, 4);
            w[3 * cols + 5] = f32::NAN;
            w[17 * cols] = f32::INFINITY;
            let w = Matrix::from_f32(20, cols, &w, dtype(kernel)).unwrap();
            let x = Prepared::new(kernel, vec![0.5; 2 * cols]);
            for lanes in [false, true] {
                let out = run(kernel, lanes, &x, &[0, 1], (&w).into(), 0..20);
                for (index, value) in out.iter().enumerate() {
                    assert_eq!(value.is_finite(), !matches!(index % 20, 3 | 17), "{kernel:?}");
                }
            }
        }
    }
}

#[test]
fn there_is_a_kernel_for_every_format_at_every_instruction_set() {
    for isa in Isa::ALL {
        for &format in WeightFormat::ALL {
            let kernel = Kernel::select(isa, format).expect("a portable one takes every format");
            assert!(isa.includes(kernel.isa()) && kernel.format() == format);
            let candidates = Kernel::all().filter(|other| other.format() == format);
            for other in candidates.filter(|other| isa.includes(other.isa())) {
                assert!(kernel.isa().includes(other.isa()), "{isa} {format}: {}", other.isa());
            }
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
