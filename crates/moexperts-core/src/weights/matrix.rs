//! Weights where they lie: typed, strided views of bytes somebody else owns.

use std::{fmt::Debug, ops::Range, sync::Arc};

use bytemuck::Pod;
use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::{
    DType, WeightFormat,
    error::{Error, Result},
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

/// A Rust type that weights are stored in.
pub trait Element: Pod + Send + Sync {
    /// The dtype of this type.
    const DTYPE: DType;

    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;

    /// Exact.
    fn to_f32(self) -> f32;

    /// Wraps a typed slice.
    fn elements(slice: &[Self]) -> Elements<'_>;

    /// The typed slice, if the elements are of this type.
    fn slice(elements: Elements<'_>) -> Option<&[Self]>;
}

macro_rules! element {
    ($type:ty, $dtype:ident, $from:expr, $to:expr) => {
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;

            fn from_f32(value: f32) -> Self {
                $from(value)
            }

            fn to_f32(self) -> f32 {
                $to(self)
            }

            fn elements(slice: &[Self]) -> Elements<'_> {
                Elements::$dtype(slice)
            }

            fn slice(elements: Elements<'_>) -> Option<&[Self]> {
                match elements {
                    Elements::$dtype(slice) => Some(slice),
                    _ => None,
                }
            }
        }
    };
}

element!(f32, F32, std::convert::identity, std::convert::identity);
element!(f16, F16, f16::from_f32, f16::to_f32);
element!(bf16, Bf16, bf16::from_f32, bf16::to_f32);

/// Neighbouring weights of one dtype.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Elements<'a> {
    /// IEEE binary32.
    F32(&'a [f32]),
    /// IEEE binary16.
    F16(&'a [f16]),
    /// The upper half of binary32.
    Bf16(&'a [bf16]),
}

impl<'a> Elements<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::Bf16(_) => DType::Bf16,
        }
    }

    /// Element `index`, exact.
    ///
    /// # Panics
    /// If there is no such element.
    pub fn get(&self, index: usize) -> f32 {
        match self {
            Self::F32(values) => values[index],
            Self::F16(values) => values[index].to_f32(),
            Self::Bf16(values) => values[index].to_f32(),
        }
    }

    /// A part of them.
    ///
    /// # Panics
    /// If the range does not lie inside.
    pub fn slice(&self, range: Range<usize>) -> Elements<'a> {
        match self {
            Self::F32(values) => Elements::F32(&values[range]),
            Self::F16(values) => Elements::F16(&values[range]),
            Self::Bf16(values) => Elements::Bf16(&values[range]),
        }
    }

    /// All of them, exact.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        self.write_f32(&mut out);
        out
    }

    /// Writes all of them into `out`, exact.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn write_f32(&self, out: &mut [f32]) {
        match self {
            Self::F32(values) => out.copy_from_slice(values),
            Self::F16(values) => values.convert_to_f32_slice(out),
            Self::Bf16(values) => values.convert_to_f32_slice(out),
        }
    }

    /// `Σ self[i] · x[i]`, summed in order in f64: the plain product for code that is read, not
    /// timed.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn dot(&self, x: &[f32]) -> f64 {
        assert_eq!(self.len(), x.len(), "lengths differ");
        x.iter().enumerate().map(|(i, &x)| f64::from(self.get(i)) * f64::from(x)).sum()
    }
}

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
        let problem = |problem: String| Error::Layout { what: "matrix".into(), problem };
        let size = layout.dtype.size_bytes();
        if overlaps(&layout) {
            return Err(problem(format!(
                "strides {} and {} let elements of [{}, {}] overlap",
                layout.row_stride, layout.col_stride, layout.rows, layout.cols
            )));
        }
        let bytes = storage.bytes();
        let needed = span_elements(&layout).and_then(|elements| elements.checked_mul(size));
        let end = needed.and_then(|needed| needed.checked_add(layout.offset_bytes));
        if end.is_none_or(|end| end > bytes.len()) {
            return Err(problem(format!(
                "[{}, {}] {} at byte {} does not fit in {} bytes",
                layout.rows,
                layout.cols,
                layout.dtype,
                layout.offset_bytes,
                bytes.len()
            )));
        }
        if !(bytes.as_ptr() as usize + layout.offset_bytes).is_multiple_of(size) {
            return Err(problem(format!(
                "{} elements are not aligned to {size} bytes",
                layout.dtype
            )));
        }
        Ok(Self { storage, layout })
    }

    /// A matrix on the heap.
    ///
    /// # Errors
    /// [`Error::Shape`] if `data` does not hold `rows * cols` values.
    pub fn from_vec<T: Element>(rows: usize, cols: usize, data: Vec<T>) -> Result<Self> {
        if data.len() != rows * cols {
            return Err(Error::Shape {
                what: "matrix data".into(),
                expected: format!("[{rows}, {cols}]"),
                got: format!("[{}]", data.len()),
            });
        }
        let layout = MatrixLayout::row_major(0, T::DTYPE, rows, cols);
        Self::new(Arc::new(Heap(data)), layout)
    }

    /// Rounds f32 values to `dtype` and keeps them on the heap.
    ///
    /// # Errors
    /// [`Error::Shape`] if `data` does not hold `rows * cols` values.
    pub fn from_f32(rows: usize, cols: usize, data: &[f32], dtype: DType) -> Result<Self> {
        fn round<T: Element>(data: &[f32]) -> Vec<T> {
            data.iter().map(|&value| T::from_f32(value)).collect()
        }
        match dtype {
            DType::F32 => Self::from_vec(rows, cols, data.to_vec()),
            DType::F16 => Self::from_vec(rows, cols, round::<f16>(data)),
            DType::Bf16 => Self::from_vec(rows, cols, round::<bf16>(data)),
        }
    }

    /// Rows: a weight's outputs.
    pub fn rows(&self) -> usize {
        self.layout.rows
    }

    /// Columns: a weight's inputs.
    pub fn cols(&self) -> usize {
        self.layout.cols
    }

    /// How the values are stored.
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

    /// The same values with contiguous rows: itself if it has them, else a copy.
    ///
    /// # Errors
    /// None for a matrix that could be made.
    pub fn row_major(&self) -> Result<Self> {
        // Of rows that are columns, the exchange of rows and columns is what `transposed` copies.
        if self.rows_are_contiguous() { Ok(self.clone()) } else { self.exchanged().transposed() }
    }

    /// Rows and columns exchanged, without copying.
    #[must_use]
    pub fn exchanged(&self) -> Self {
        let MatrixLayout { rows, cols, row_stride, col_stride, .. } = self.layout;
        let layout = MatrixLayout {
            rows: cols,
            cols: rows,
            row_stride: col_stride,
            col_stride: row_stride,
            ..self.layout
        };
        Self { storage: Arc::clone(&self.storage), layout }
    }

    /// Bytes of the values, gaps between them left out.
    pub fn size_bytes(&self) -> usize {
        self.format().size_bytes(self.rows(), self.cols())
    }

    fn element_bytes(&self) -> usize {
        self.layout.dtype.size_bytes()
    }

    /// Everything from the first element of the first row to the last of the last; column `c` of
    /// row `r` is at `r * row_stride + c * col_stride`.
    pub fn elements(&self) -> Elements<'_> {
        let len = span_elements(&self.layout).unwrap_or(0);
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
        let start = index * self.row_stride();
        self.elements().slice(start..start + self.cols())
    }

    /// The rows `start`, `start + step`, … below `end`, without copying.
    ///
    /// # Panics
    /// If `end` is beyond the last row, `start` beyond `end`, or `step` is 0.
    #[must_use]
    pub fn rows_stepped(&self, range: Range<usize>, step: usize) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows() && step > 0, "rows {range:?}");
        let skipped = range.start * self.row_stride() * self.element_bytes();
        let layout = MatrixLayout {
            offset_bytes: self.layout.offset_bytes + skipped,
            rows: range.len().div_ceil(step),
            row_stride: self.row_stride() * step,
            ..self.layout
        };
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
        let skipped = range.start * self.col_stride() * self.element_bytes();
        let offset_bytes = self.layout.offset_bytes + skipped;
        let layout = MatrixLayout { offset_bytes, cols: range.len(), ..self.layout };
        Self { storage: Arc::clone(&self.storage), layout }
    }

    /// All values in f32, row-major without gaps.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows() * self.cols()];
        let elements = self.elements();
        for (index, row) in out.chunks_exact_mut(self.cols().max(1)).enumerate() {
            if self.rows_are_contiguous() {
                self.row(index).write_f32(row);
                continue;
            }
            for (col, value) in row.iter_mut().enumerate() {
                *value = elements.get(index * self.row_stride() + col * self.col_stride());
            }
        }
        out
    }

    /// The same matrix in another element type: itself if it is stored so, else a rounded copy.
    ///
    /// # Errors
    /// None for a matrix that could be made.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        if dtype == self.layout.dtype {
            return Ok(self.clone());
        }
        Self::from_f32(self.rows(), self.cols(), &self.to_f32(), dtype)
    }

    /// A copy with rows and columns exchanged.
    ///
    /// # Errors
    /// None for a matrix that could be made.
    pub fn transposed(&self) -> Result<Self> {
        /// Rows and columns of a square that fits the first-level cache in both orders.
        const SQUARE: usize = 32;
        fn exchange<T: Element>(values: &[T], m: &Matrix) -> Result<Matrix> {
            let (rows, cols) = (m.rows(), m.cols());
            let [down, right] = [m.row_stride(), m.col_stride()];
            let mut out = vec![T::from_f32(0.0); rows * cols];
            for top in (0..rows).step_by(SQUARE) {
                for left in (0..cols).step_by(SQUARE) {
                    for col in left..cols.min(left + SQUARE) {
                        for row in top..rows.min(top + SQUARE) {
                            out[col * rows + row] = values[row * down + col * right];
                        }
                    }
                }
            }
            Matrix::from_vec(cols, rows, out)
        }
        match self.elements() {
            Elements::F32(values) => exchange(values, self),
            Elements::F16(values) => exchange(values, self),
            Elements::Bf16(values) => exchange(values, self),
        }
    }
}

/// What every device's weights are: a matrix [out, in] that can be cut without copying.
pub trait Weight: Debug + Clone + Send + Sync {
    /// Outputs.
    fn rows(&self) -> usize;

    /// Inputs.
    fn cols(&self) -> usize;

    /// How its values are stored.
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

/// Elements from the first to the last of a matrix, gaps included; `None` if that overflows.
fn span_elements(layout: &MatrixLayout) -> Option<usize> {
    let (Some(down), Some(right)) = (layout.rows.checked_sub(1), layout.cols.checked_sub(1)) else {
        return Some(0);
    };
    let down = down.checked_mul(layout.row_stride)?;
    right.checked_mul(layout.col_stride)?.checked_add(down)?.checked_add(1)
}

/// Whether two elements could lie in one place: neither do whole rows follow one another, nor whole
/// columns.
fn overlaps(layout: &MatrixLayout) -> bool {
    let down = (layout.rows, layout.row_stride);
    let right = (layout.cols, layout.col_stride);
    let follow = |(count, stride): (usize, usize), (inner, inner_stride): (usize, usize)| {
        let last = inner.saturating_sub(1).saturating_mul(inner_stride);
        (inner <= 1 || inner_stride > 0) && (count <= 1 || stride > last)
    };
    !follow(down, right) && !follow(right, down)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_of_every_second_row_shares_the_bytes() {
        let whole = Matrix::from_vec(4, 2, vec![0.0_f32, 1., 2., 3., 4., 5., 6., 7.]).unwrap();
        let odd = whole.rows_stepped(1..4, 2);
        assert_eq!((odd.rows(), odd.cols(), odd.row_stride()), (2, 2, 4));
        assert_eq!(odd.to_f32(), [2., 3., 6., 7.]);
        assert_eq!(whole.row_range(2..2).to_f32(), Vec::<f32>::new());
    }

    #[test]
    fn a_block_of_rows_and_columns_shares_the_bytes() {
        let whole = Matrix::from_vec(3, 3, (0..9_u8).map(f32::from).collect()).unwrap();
        let block = whole.block(1..3, 1..2);
        assert_eq!((block.rows(), block.cols(), block.row_stride()), (2, 1, 3));
        assert_eq!(block.to_f32(), [4., 7.]);
        assert_eq!(whole.block(3..3, 0..3).to_f32(), Vec::<f32>::new());
    }

    #[test]
    fn transposing_twice_gives_the_matrix_back() {
        let matrix = Matrix::from_f32(2, 3, &[1., 2., 3., 4., 5., 6.], DType::Bf16).unwrap();
        let exchanged = matrix.transposed().unwrap();
        assert_eq!(exchanged.to_f32(), [1., 4., 2., 5., 3., 6.]);
        assert_eq!(exchanged.transposed().unwrap().to_f32(), matrix.to_f32());
    }

    #[test]
    fn transposing_exchanges_places_beyond_one_square() {
        let values: Vec<f32> = (0..40 * 70).map(|value| value as f32).collect();
        let matrix = Matrix::from_vec(40, 70, values).unwrap().rows_stepped(0..40, 2);
        let exchanged = matrix.transposed().unwrap();
        assert_eq!((exchanged.rows(), exchanged.cols()), (70, 20));
        for (row, col) in [(0, 0), (19, 69), (3, 40), (17, 31)] {
            assert_eq!(exchanged.row(col).get(row), matrix.row(row).get(col));
        }
    }

    #[test]
    fn refuses_a_matrix_outside_its_storage() {
        let storage: Arc<dyn Storage> = Arc::new(Heap(vec![0_f32; 4]));
        let layout = MatrixLayout::row_major(8, DType::F32, 2, 2);
        let error = Matrix::new(Arc::clone(&storage), layout).unwrap_err();
        assert_eq!(error.to_string(), "matrix: [2, 2] f32 at byte 8 does not fit in 16 bytes");
        let huge = MatrixLayout { rows: usize::MAX, row_stride: usize::MAX, ..layout };
        assert!(Matrix::new(Arc::clone(&storage), huge).is_err());
        let unaligned = MatrixLayout { offset_bytes: 2, rows: 1, ..layout };
        let error = Matrix::new(storage, unaligned).unwrap_err();
        assert_eq!(error.to_string(), "matrix: f32 elements are not aligned to 4 bytes");
    }

    #[test]
    fn a_view_of_columns_as_rows_shares_the_bytes() {
        let whole = Matrix::from_vec(3, 4, (0..12_u8).map(f32::from).collect()).unwrap();
        // Of the columns, every second: an interleaved gate stored [in, out].
        let gate = whole.exchanged().rows_stepped(0..4, 2);
        assert_eq!((gate.rows(), gate.cols()), (2, 3));
        assert_eq!((gate.row_stride(), gate.col_stride()), (2, 4));
        assert!(!gate.rows_are_contiguous());
        assert_eq!(gate.to_f32(), [0., 4., 8., 2., 6., 10.]);
        assert_eq!(gate.block(1..2, 1..3).to_f32(), [6., 10.]);
        let copy = gate.row_major().unwrap();
        assert_eq!((copy.to_f32(), copy.col_stride()), (gate.to_f32(), 1));
        assert_eq!(gate.transposed().unwrap().to_f32(), [0., 2., 4., 6., 8., 10.]);
        assert_eq!(gate.exchanged().to_f32(), [0., 2., 4., 6., 8., 10.]);
    }

    #[test]
    fn refuses_elements_that_overlap() {
        let storage: Arc<dyn Storage> = Arc::new(Heap(vec![0_f32; 64]));
        let layout = |row_stride, col_stride| MatrixLayout {
            row_stride,
            col_stride,
            ..MatrixLayout::row_major(0, DType::F32, 3, 4)
        };
        for (row_stride, col_stride) in [(4, 1), (9, 1), (1, 3), (2, 6), (10, 3), (1, 9)] {
            let matrix = Matrix::new(Arc::clone(&storage), layout(row_stride, col_stride));
            assert!(matrix.is_ok(), "{row_stride} {col_stride}");
        }
        for (row_stride, col_stride) in [(3, 1), (0, 1), (4, 0), (1, 2), (2, 4), (0, 0)] {
            let error = Matrix::new(Arc::clone(&storage), layout(row_stride, col_stride));
            let expected = format!(
                "matrix: strides {row_stride} and {col_stride} let elements of [3, 4] overlap"
            );
            assert_eq!(error.unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn rounds_to_nearest_even() {
        let tie = f32::from_bits(0x3f80_8000);
        let matrix = Matrix::from_f32(1, 2, &[tie, -tie], DType::Bf16).unwrap();
        assert_eq!(matrix.to_f32(), [1.0, -1.0]);
    }
}
