//! Storage formats of weights.

use std::fmt;

use crate::weights::dtype::DType;

/// The storage format of a weight's values.
///
/// Kernels are listed by instruction set and format, and a device says which formats it has kernels
/// for: [`Memory::has_format`](crate::Memory::has_format).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum WeightFormat {
    /// Each value separately, as an element.
    Dense(DType),
}

impl WeightFormat {
    /// Elements of IEEE binary32.
    pub const F32: Self = Self::Dense(DType::F32);

    /// Elements of IEEE binary16.
    pub const F16: Self = Self::Dense(DType::F16);

    /// Elements of bfloat16.
    pub const BF16: Self = Self::Dense(DType::Bf16);

    /// Every format, the dense ones first.
    pub const ALL: &'static [Self] = &[Self::F32, Self::F16, Self::BF16];

    /// The name as users type it; for a dense format, the name of its element type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dense(dtype) => dtype.name(),
        }
    }

    /// The element type, if each value is stored separately.
    pub const fn dense(self) -> Option<DType> {
        match self {
            Self::Dense(dtype) => Some(dtype),
        }
    }

    /// The element type to which a kernel may round the inputs of a product with such weights,
    /// where its instruction multiplies like with like.
    pub const fn input_dtype(self) -> DType {
        match self {
            Self::Dense(dtype) => dtype,
        }
    }

    /// Bytes of a row of `cols` values.
    pub const fn row_bytes(self, cols: usize) -> usize {
        match self {
            Self::Dense(dtype) => cols * dtype.size_bytes(),
        }
    }

    /// Bytes of a matrix [rows, cols].
    pub const fn size_bytes(self, rows: usize, cols: usize) -> usize {
        rows * self.row_bytes(cols)
    }
}

impl From<DType> for WeightFormat {
    fn from(dtype: DType) -> Self {
        Self::Dense(dtype)
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Matrix, Weight};

    #[test]
    fn every_format_is_listed_once_and_every_element_type_is_one() {
        let mut names: Vec<&str> = WeightFormat::ALL.iter().map(|format| format.name()).collect();
        assert!(DType::ALL.iter().all(|&dtype| WeightFormat::ALL.contains(&dtype.into())));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), WeightFormat::ALL.len());
    }

    #[test]
    fn a_dense_matrix_takes_the_bytes_of_its_elements() {
        for dtype in DType::ALL {
            let matrix = Matrix::from_f32(3, 5, &[1.0; 15], dtype).unwrap();
            let format = Weight::format(&matrix);
            assert_eq!((format.dense(), format.to_string()), (Some(dtype), dtype.to_string()));
            assert_eq!(format.row_bytes(5), 5 * dtype.size_bytes());
            assert_eq!(matrix.size_bytes(), 15 * dtype.size_bytes());
        }
    }
}
