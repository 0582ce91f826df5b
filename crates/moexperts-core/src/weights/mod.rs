//! Weights: their formats, and matrices over bytes that stay where they are.

mod convert;
mod dtype;
mod element;
pub(crate) mod format;
mod layout;
mod linear;
mod matrix;
mod names;

pub use dtype::DType;
pub use element::{Element, Elements};
pub use format::WeightFormat;
pub use layout::MatrixLayout;
pub use linear::Linear;
pub use matrix::{Matrix, Storage, Weight};
