//! The experts backends of the CPU, and what they share.
//!
//! All three compute the same products and add a token's experts in ascending id; they differ in
//! how the work is cut, and in which pairs pass an expert's weights together.

mod batched_mm;
mod eager;
mod grouped_mm;
mod groups;
mod layer;
mod outputs;
mod pairs;
mod rows_backend;

pub use batched_mm::BatchedMm;
pub use eager::Eager;
pub use grouped_mm::GroupedMm;
pub use pairs::{PairsCall, expert_linear};
pub use rows_backend::{RowsBackend, RowsCall};
