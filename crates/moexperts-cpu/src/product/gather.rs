//! Weight rows whose values lie apart, as those stored `[in, out]` do: the kernels read contiguous
//! rows, so a thread brings together the block of rows that it is about to multiply.

use std::ops::Range;

use half::{bf16, f16};
use moexperts_core::{Element, Elements, Matrix};

use super::weights::Weights;

/// Columns that are brought together before the next: a cache line of 16-bit weights, so that each
/// line that is written is written whole.
const COLUMNS: usize = 32;

/// A buffer for one block of rows.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    f32: Vec<f32>,
    f16: Vec<f16>,
    bf16: Vec<bf16>,
}

impl Gathered {
    /// Some rows of a weight, and which rows of the result they are: where they lie, if the kernels
    /// can read them there, else copied into this buffer.
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
    use proptest::prelude::*;

    use super::*;

    /// Views of a stored matrix: parts of it, every few rows, columns as rows.
    fn view() -> impl Strategy<Value = Matrix> {
        let size = (1_usize..40, 1_usize..70, 0..DType::ALL.len());
        (size, any::<[bool; 2]>(), any::<[u8; 5]>()).prop_map(
            |((rows, cols, dtype), [before, after], [first, last, step, left, right])| {
                let values: Vec<f32> = (0..rows * cols).map(|value| (value % 251) as f32).collect();
                let mut matrix = Matrix::from_f32(rows, cols, &values, DType::ALL[dtype]).unwrap();
                if before {
                    matrix = matrix.exchanged();
                }
                let part = |len: usize, from: u8, to: u8| {
                    let from = from as usize % len;
                    from..from + 1 + to as usize % (len - from)
                };
                let step = 1 + step as usize % 3;
                matrix = matrix.rows_stepped(part(matrix.rows(), first, last), step);
                matrix = matrix.col_range(part(matrix.cols(), left, right));
                if after { matrix.exchanged() } else { matrix }
            },
        )
    }

    proptest! {
        #[test]
        fn gathered_rows_are_those_of_the_matrix(
            weights in prop::collection::vec((view(), any::<[u8; 2]>()), 1..4),
        ) {
            // One buffer, which holds what it was used for before.
            let mut buffer = Gathered::default();
            for (weight, [start, len]) in weights {
                let start = start as usize % weight.rows();
                let rows = start..start + len as usize % (weight.rows() - start + 1);
                let expected = weight.row_range(rows.clone()).to_f32();
                let (block, places) = buffer.rows(&weight, rows.clone());
                prop_assert_eq!(places.len(), rows.len());
                let got = places.flat_map(|row| {
                    let start = row * block.row_stride;
                    block.elements.slice(start..start + block.cols).to_f32()
                });
                prop_assert_eq!(got.collect::<Vec<_>>(), expected, "{:?} {:?}", weight, rows);
            }
        }
    }
}
