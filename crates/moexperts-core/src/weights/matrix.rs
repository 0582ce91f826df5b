//! Weights where they lie: typed, strided views of shared bytes.

use std::{fmt::Debug, ops::Range, sync::Arc};

use bytemuck::Pod;

use crate::{
    error::{Error, Result},
    shapes::data as data_fills,
    weights::{
        dtype::DType,
        element::{Element, Elements},
        format::WeightFormat,
        layout::MatrixLayout,
    },
};

/// Bytes that stay where they are and do not change while anyone holds them: a mapped file, a
/// constant in the binary, a buffer on the heap.
pub trait Storage: Debug + Send + Sync {
    /// All the bytes.
    fn bytes(&self) -> &[u8];
}

/// Values on the heap, aligned for their type.
struct Heap<T>(Vec<T>);

impl<T> Debug for Heap<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Heap({} values)", self.0.len())
    }
}

impl<T: Pod + Send + Sync> Storage for Heap<T> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// A weight `[rows, cols]` = `[out, in]`: a view of shared bytes, rows a fixed stride apart, and so
/// the values of a row. Cloning it copies no weights.
///
/// Devices compute with contiguous rows ([`row_major`](Self::row_major)) unless they say otherwise.
#[derive(Debug, Clone)]
pub struct Matrix {
    storage: Arc<dyn Storage>,
    layout: MatrixLayout,
}

impl Matrix {
    /// Views bytes as a matrix, in place.
    ///
    /// # Errors
    /// [`Error::Layout`] if the matrix does not lie inside the storage or its elements are not
    /// aligned.
    pub fn new(storage: Arc<dyn Storage>, layout: MatrixLayout) -> Result<Self> {
        match layout.problem(storage.bytes()) {
            None => Ok(Self { storage, layout }),
            Some(problem) => Err(Error::Layout { what: "matrix".into(), problem }),
        }
    }

    /// A matrix on the heap.
    ///
    /// # Errors
    /// [`Error::Shape`](Error::Shape) if `data` does not hold `rows * cols` values.
    pub fn from_vec<T: Element>(rows: usize, cols: usize, data: Vec<T>) -> Result<Self> {
        data_fills("matrix data", data.len(), [rows, cols])?;
        let layout = MatrixLayout::row_major(0, T::DTYPE, rows, cols);
        Self::new(Arc::new(Heap(data)), layout)
    }

    /// Rows: a weight's outputs.
    pub fn rows(&self) -> usize {
        self.layout.rows
    }

    /// Columns: a weight's inputs.
    pub fn cols(&self) -> usize {
        self.layout.cols
    }

    /// The storage format of the values.
    pub fn format(&self) -> WeightFormat {
        self.layout.dtype.into()
    }

    /// Elements from the start of a row to the start of the next.
    pub fn row_stride(&self) -> usize {
        self.layout.row_stride
    }

    /// Elements from a value of a row to the next.
    pub fn col_stride(&self) -> usize {
        self.layout.col_stride
    }

    /// Whether the values of a row are neighbours.
    pub fn rows_are_contiguous(&self) -> bool {
        self.layout.rows_are_contiguous()
    }

    /// Rows and columns exchanged, without copying.
    #[must_use]
    pub fn exchanged(&self) -> Self {
        Self { storage: Arc::clone(&self.storage), layout: self.layout.exchanged() }
    }

    /// Bytes of the values, without the gaps between them.
    pub fn size_bytes(&self) -> usize {
        self.format().size_bytes(self.rows(), self.cols())
    }

    fn element_bytes(&self) -> usize {
        self.layout.dtype.size_bytes()
    }

    /// Everything from the first element of the first row to the last of the last; column `c` of
    /// row `r` is at `r * row_stride + c * col_stride`.
    pub fn elements(&self) -> Elements<'_> {
        let len = self.layout.span_elements().unwrap_or(0);
        let start = self.layout.offset_bytes;
        let bytes = &self.storage.bytes()[start..start + len * self.element_bytes()];
        // `new` checked the bounds and the alignment, so the casts cannot fail.
        match self.layout.dtype {
            DType::F32 => Elements::F32(bytemuck::cast_slice(bytes)),
            DType::F16 => Elements::F16(bytemuck::cast_slice(bytes)),
            DType::Bf16 => Elements::Bf16(bytemuck::cast_slice(bytes)),
        }
    }

    /// Row `index`: the weights of one output.
    ///
    /// # Panics
    /// If there is no such row, or its values are not neighbours.
    pub fn row(&self, index: usize) -> Elements<'_> {
        assert!(index < self.rows(), "row {index} of {}", self.rows());
        assert!(self.rows_are_contiguous(), "values {} apart", self.col_stride());
        // A row of nothing may begin anywhere.
        let start = if self.cols() == 0 { 0 } else { index * self.row_stride() };
        self.elements().slice(start..start + self.cols())
    }

    /// The rows `start`, `start + step`, … below `end`, without copying.
    ///
    /// # Panics
    /// If `end` is beyond the last row, `start` beyond `end`, or `step` is 0.
    #[must_use]
    pub fn rows_stepped(&self, range: Range<usize>, step: usize) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows() && step > 0, "rows {range:?}");
        let layout = self.layout.rows_stepped(range.start, range.end, step);
        Self { storage: Arc::clone(&self.storage), layout }
    }

    /// A block of neighbouring rows, without copying.
    ///
    /// # Panics
    /// If the range does not lie inside.
    #[must_use]
    pub fn row_range(&self, range: Range<usize>) -> Self {
        self.rows_stepped(range, 1)
    }

    /// A block of neighbouring columns, without copying.
    ///
    /// # Panics
    /// If the range does not lie inside.
    #[must_use]
    pub fn col_range(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.cols(), "columns {range:?}");
        let layout = self.layout.exchanged().rows_stepped(range.start, range.end, 1).exchanged();
        Self { storage: Arc::clone(&self.storage), layout }
    }
}

/// A weight on a device: a matrix [out, in] that can be cut without copying.
pub trait Weight: Debug + Clone + Send + Sync {
    /// Outputs.
    fn rows(&self) -> usize;

    /// Inputs.
    fn cols(&self) -> usize;

    /// The storage format of its values.
    fn format(&self) -> WeightFormat;

    /// The block of some rows and columns.
    ///
    /// # Panics
    /// If it does not lie inside.
    #[must_use]
    fn block(&self, rows: Range<usize>, cols: Range<usize>) -> Self;

    /// Bytes of its values.
    fn size_bytes(&self) -> usize {
        self.format().size_bytes(self.rows(), self.cols())
    }
}

impl Weight for Matrix {
    fn rows(&self) -> usize {
        self.rows()
    }

    fn cols(&self) -> usize {
        self.cols()
    }

    fn format(&self) -> WeightFormat {
        self.format()
    }

    fn block(&self, rows: Range<usize>, cols: Range<usize>) -> Self {
        self.row_range(rows).col_range(cols)
    }
}

#[cfg(test)]
mod tests;
