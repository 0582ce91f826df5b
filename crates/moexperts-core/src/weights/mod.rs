//! Weights: their formats, and matrices over bytes that stay where they are.

mod dtype;
mod format;
mod matrix;

pub use dtype::DType;
pub use format::WeightFormat;
pub use matrix::{Element, Elements, Matrix, MatrixLayout, Storage, Weight};
