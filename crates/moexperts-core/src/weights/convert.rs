//! Matrices in other element types and other orders: all of these copy.

use half::{bf16, f16};

use crate::{
    error::Result,
    weights::{
        dtype::DType,
        element::{Element, Elements},
        matrix::Matrix,
    },
};

impl Matrix {
    /// Rounds f32 values to `dtype` and keeps them on the heap.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if `data` does not hold `rows * cols` values.
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
        if self.format() == dtype.into() {
            return Ok(self.clone());
        }
        Self::from_f32(self.rows(), self.cols(), &self.to_f32(), dtype)
    }

    /// The same values with contiguous rows: itself if it has them, else a copy.
    ///
    /// # Errors
    /// None for a matrix that could be made.
    pub fn row_major(&self) -> Result<Self> {
        // `transposed` copies the exchange of its matrix: of the exchange, this matrix itself.
        if self.rows_are_contiguous() { Ok(self.clone()) } else { self.exchanged().transposed() }
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
            // An empty matrix may have any number of rows or columns: none of them is walked.
            let rows = if out.is_empty() { 0 } else { rows };
            for top in (0..rows).step_by(SQUARE) {
                for left in (0..cols).step_by(SQUARE) {
                    for col in left..cols.min(left + SQUARE) {
                        for row in top..rows.min(top + SQUARE) {
                            out[col * rows + row] = values[row * down + col * right];
                        }
                    }
                }
            }
            Matrix::from_vec(m.cols(), m.rows(), out)
        }
        match self.elements() {
            Elements::F32(values) => exchange(values, self),
            Elements::F16(values) => exchange(values, self),
            Elements::Bf16(values) => exchange(values, self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn rounds_to_nearest_even() {
        let tie = f32::from_bits(0x3f80_8000);
        let matrix = Matrix::from_f32(1, 2, &[tie, -tie], DType::Bf16).unwrap();
        assert_eq!(matrix.to_f32(), [1.0, -1.0]);
    }
}
