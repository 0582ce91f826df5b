//! Where a matrix lies in its storage.

use crate::weights::dtype::DType;

/// Where a matrix lies in its storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixLayout {
    /// First byte of the first row.
    pub offset_bytes: usize,
    /// Element type.
    pub dtype: DType,
    /// Rows: a weight's outputs.
    pub rows: usize,
    /// Columns: a weight's inputs.
    pub cols: usize,
    /// Elements from the start of a row to the start of the next.
    pub row_stride: usize,
    /// Elements from a value of a row to the next: 1 where they are neighbours.
    pub col_stride: usize,
}

impl MatrixLayout {
    /// Rows one after another, without gaps.
    pub const fn row_major(offset_bytes: usize, dtype: DType, rows: usize, cols: usize) -> Self {
        Self { offset_bytes, dtype, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// Whether the values of a row are neighbours.
    pub const fn rows_are_contiguous(&self) -> bool {
        self.col_stride == 1 || self.cols <= 1
    }

    /// What is wrong with this layout in `bytes`, if anything.
    pub(crate) fn problem(&self, bytes: &[u8]) -> Option<String> {
        let Self { offset_bytes, dtype, rows, cols, row_stride, col_stride } = *self;
        let size = dtype.size_bytes();
        if self.overlaps() {
            return Some(format!(
                "strides {row_stride} and {col_stride} let elements of [{rows}, {cols}] overlap"
            ));
        }
        // An empty matrix has no last element, but its views count the bytes of its rows all the
        // same.
        let counts = [rows, cols].iter().all(|&count| count.checked_mul(size).is_some());
        let needed = self.span_elements().and_then(|elements| elements.checked_mul(size));
        let end = needed.and_then(|needed| needed.checked_add(offset_bytes));
        if !counts || end.is_none_or(|end| end > bytes.len()) {
            let len = bytes.len();
            return Some(format!(
                "[{rows}, {cols}] {dtype} at byte {offset_bytes} does not fit in {len} bytes"
            ));
        }
        let aligned = (bytes.as_ptr() as usize + offset_bytes).is_multiple_of(size);
        (!aligned).then(|| format!("{dtype} elements are not aligned to {size} bytes"))
    }

    /// Rows and columns exchanged.
    pub(crate) const fn exchanged(self) -> Self {
        let Self { rows, cols, row_stride, col_stride, .. } = self;
        Self { rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride, ..self }
    }

    /// The rows `start`, `start + step`, … below `end`, of a range that lies inside and a step that
    /// is not 0.
    ///
    /// What is left may be empty: then its first byte stays where it was, since the skipped rows
    /// may end beyond the storage. Of at most one row, the stride to the next does not matter.
    pub(crate) fn rows_stepped(self, start: usize, end: usize, step: usize) -> Self {
        let rows = (end - start).div_ceil(step);
        let skipped = if rows == 0 || self.cols == 0 { 0 } else { start * self.row_stride };
        Self {
            offset_bytes: self.offset_bytes + skipped * self.dtype.size_bytes(),
            rows,
            row_stride: self.row_stride.saturating_mul(step),
            ..self
        }
    }

    /// Elements from the first to the last of a matrix, gaps included; `None` if that overflows.
    pub(crate) fn span_elements(&self) -> Option<usize> {
        let (Some(down), Some(right)) = (self.rows.checked_sub(1), self.cols.checked_sub(1)) else {
            return Some(0);
        };
        let down = down.checked_mul(self.row_stride)?;
        right.checked_mul(self.col_stride)?.checked_add(down)?.checked_add(1)
    }

    /// Whether two elements could lie in one place: neither do whole rows follow one another, nor
    /// whole columns.
    fn overlaps(&self) -> bool {
        if self.rows == 0 || self.cols == 0 {
            return false;
        }
        let down = (self.rows, self.row_stride);
        let right = (self.cols, self.col_stride);
        let follow = |(count, stride): (usize, usize), (inner, inner_stride): (usize, usize)| {
            let last = inner.saturating_sub(1).saturating_mul(inner_stride);
            (inner <= 1 || inner_stride > 0) && (count <= 1 || stride > last)
        };
        !follow(down, right) && !follow(right, down)
    }
}
