//! Weight rows whose values lie apart, as those stored `[in, out]` do: the kernels read contiguous
//! rows, so a thread brings together the block of rows that it is about to multiply.

use std::ops::Range;

use half::{bf16, f16};
use moexperts_core::{Element, Elements, Matrix};

use super::Weights;

/// Columns that are brought together before the next: a cache line of 16-bit weights.
const COLUMNS: usize = 32;

/// Room for one block of rows.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    f32: Vec<f32>,
    f16: Vec<f16>,
    bf16: Vec<bf16>,
}

impl Gathered {
    /// Some rows of a weight, and which of the result's they are: where they lie, if the kernels can
    /// read them there, else copied into this room.
    pub(crate) fn rows<'a>(
        &'a mut self,
        weight: &'a Matrix,
        rows: Range<usize>,
    ) -> (Weights<'a>, Range<usize>) {
        if weight.rows_are_contiguous() {
            return (weight.into(), rows);
        }
        let block = weight.row_range(rows.clone());
        let elements = match weight.elements() {
            Elements::F32(_) => gather(&block, &mut self.f32),
            Elements::F16(_) => gather(&block, &mut self.f16),
            Elements::Bf16(_) => gather(&block, &mut self.bf16),
        };
        let [rows, cols] = [block.rows(), block.cols()];
        (Weights { elements, rows, cols, row_stride: cols }, 0..rows)
    }
}

/// Copies a matrix row-major without gaps.
fn gather<'a, T: Element>(matrix: &Matrix, out: &'a mut Vec<T>) -> Elements<'a> {
    let values = T::slice(matrix.elements()).expect("the elements are of the type of the buffer");
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let [down, right] = [matrix.row_stride(), matrix.col_stride()];
    out.resize((rows * cols).max(out.len()), T::from_f32(0.0));
    let out = &mut out[..rows * cols];
    for first in (0..cols).step_by(COLUMNS) {
        let columns = first..cols.min(first + COLUMNS);
        for (row, out) in out.chunks_exact_mut(cols).enumerate() {
            let from = values[row * down + first * right..].iter().step_by(right);
            for (out, value) in out[columns.clone()].iter_mut().zip(from) {
                *out = *value;
            }
        }
    }
    T::elements(out)
}

#[cfg(test)]
mod tests {
    use moexperts_core::DType;

    use super::*;

    #[test]
    fn gathered_rows_are_those_of_the_matrix() {
        let mut room = Gathered::default();
        for dtype in DType::ALL {
            let values: Vec<f32> = (0..70 * 23).map(|value| (value % 251) as f32).collect();
            let stored = Matrix::from_f32(70, 23, &values, dtype).unwrap();
            // [out, in] as it is, exchanged, and every second row of that.
            let exchanged = stored.exchanged();
            for weight in [stored, exchanged.clone(), exchanged.rows_stepped(1..23, 2)] {
                for rows in [0..weight.rows(), 3..9, 4..4] {
                    let expected = weight.row_range(rows.clone()).to_f32();
                    let (block, places) = room.rows(&weight, rows.clone());
                    assert_eq!(places.len(), rows.len());
                    let got = places.flat_map(|row| {
                        let start = row * block.row_stride;
                        block.elements.slice(start..start + block.cols).to_f32()
                    });
                    assert_eq!(got.collect::<Vec<_>>(), expected, "{weight:?} {rows:?}");
                }
            }
        }
    }
}
