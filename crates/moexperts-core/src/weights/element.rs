//! Elements in memory: the Rust types that weights are stored in, and slices of them.

use std::ops::Range;

use bytemuck::Pod;
use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::weights::dtype::DType;

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
