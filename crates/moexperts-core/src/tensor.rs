//! Activations in host memory.

use crate::{error::Result, shapes};

/// Activations `[rows, cols]` in f32, row-major: inputs and results of operations on a device that
/// shares the host's memory.
#[derive(Debug, Clone, Default)]
pub struct Tensor {
    rows: usize,
    cols: usize,
    /// The values, followed by leftovers of larger shapes.
    data: Vec<f32>,
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.shape() == other.shape() && self.data() == other.data()
    }
}

impl Tensor {
    /// All zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: vec![0.0; rows * cols] }
    }

    /// [0, 0], with capacity for `values` values.
    pub fn with_capacity(values: usize) -> Self {
        Self { data: Vec::with_capacity(values), ..Self::default() }
    }

    /// Takes another shape, its values unspecified; its memory is used again.
    pub fn reset(&mut self, rows: usize, cols: usize) {
        (self.rows, self.cols) = (rows, cols);
        // Shorter, it would be cleared the next time it grows.
        self.data.resize((rows * cols).max(self.data.len()), 0.0);
    }

    /// Takes row-major data.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if `data` does not hold `rows * cols` values.
    pub fn from_vec(rows: usize, cols: usize, data: Vec<f32>) -> Result<Self> {
        shapes::tensor_data(data.len(), [rows, cols])?;
        Ok(Self { rows, cols, data })
    }

    /// Number of rows, one for each token.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// [rows, cols].
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Row `index`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.data[index * self.cols..(index + 1) * self.cols]
    }

    /// Row `index`, to write.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.data[index * self.cols..(index + 1) * self.cols]
    }

    /// All values, row-major.
    pub fn data(&self) -> &[f32] {
        &self.data[..self.rows * self.cols]
    }

    /// All values, row-major, to write.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.rows * self.cols]
    }

    /// The values, row-major.
    pub fn into_vec(mut self) -> Vec<f32> {
        self.data.truncate(self.rows * self.cols);
        self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_shape_uses_the_same_memory() {
        let mut tensor = Tensor::with_capacity(6);
        let at = tensor.data().as_ptr();
        for [rows, cols] in [[2, 3], [1, 2], [0, 4], [3, 2]] {
            tensor.reset(rows, cols);
            tensor.data_mut().fill(1.0);
            assert_eq!(
                (tensor.rows(), tensor.cols(), tensor.data().len()),
                (rows, cols, rows * cols)
            );
            assert_eq!(tensor.data().as_ptr(), at);
        }
        tensor.reset(1, 2);
        let small = Tensor::from_vec(1, 2, vec![1.0; 2]).unwrap();
        assert_eq!(tensor, small);
        assert_eq!(tensor.into_vec(), [1.0; 2]);
    }
}
