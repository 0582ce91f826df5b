//! The operands of a kernel: weight rows and input rows, where they lie.

use std::ops::Range;

use half::bf16;
use moexperts_core::{Element, Elements, Matrix};

/// Rows of weights `[rows, cols]`, wherever they lie.
///
/// Invariant: row `r < rows` is `elements[r * row_stride..][..cols]`, which exists.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    pub(super) elements: Elements<'a>,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
}

impl<'a> Weights<'a> {
    /// Rows of f32 values: row `r` starts at `r * row_stride`.
    ///
    /// # Panics
    /// If the rows do not lie inside `values`.
    pub fn from_f32(values: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        let last = rows.saturating_sub(1).checked_mul(row_stride);
        let end = last.and_then(|last| last.checked_add(cols));
        assert!(rows == 0 || end.is_some_and(|end| end <= values.len()), "rows");
        Self { elements: Elements::F32(values), rows, cols, row_stride }
    }

    /// The typed elements from the first of the rows `outputs` on.
    ///
    /// # Panics
    /// If the rows do not exist or the weights are of another format.
    pub(super) fn rows_of<W: Element>(&self, outputs: &Range<usize>) -> &'a [W] {
        let weights = W::slice(self.elements).expect("the weights are of the kernel's format");
        assert!(outputs.start <= outputs.end && outputs.end <= self.rows, "outputs {outputs:?}");
        weights.get(outputs.start * self.row_stride..).unwrap_or_default()
    }
}

/// # Panics
/// If the values of a row are not neighbours.
impl<'a> From<&'a Matrix> for Weights<'a> {
    fn from(matrix: &'a Matrix) -> Self {
        assert!(matrix.rows_are_contiguous(), "rows of values {} apart", matrix.col_stride());
        Self {
            elements: matrix.elements(),
            rows: matrix.rows(),
            cols: matrix.cols(),
            row_stride: matrix.row_stride(),
        }
    }
}

/// Weights that a thread reads after those of a product.
#[derive(Debug, Clone, Copy)]
pub struct Then<'a> {
    /// They have the format of those of the product.
    pub weights: Weights<'a>,
    /// The first row that is read.
    pub row: usize,
}

impl<'a> Then<'a> {
    /// The rows of a weight from `row` on, if they are read where they lie.
    pub(crate) fn rows(weight: &'a Matrix, row: usize) -> Option<Self> {
        weight.rows_are_contiguous().then(|| Self { weights: weight.into(), row })
    }
}

/// Input rows `[_, cols]`, as the kernel wants them.
#[derive(Debug, Clone, Copy)]
pub enum Inputs<'a> {
    /// As they are.
    F32(&'a [f32]),
    /// Rounded, for instructions that multiply bf16 by bf16.
    Bf16(&'a [bf16]),
}

impl Inputs<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }
}
