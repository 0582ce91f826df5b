//! The experts backends of the GPU.
//!
//! `batched_mm` computes every pair (token, expert) by itself, `grouped_mm` the pairs of an expert
//! together, both without the host knowing the routing; `eager` reads it and computes one expert after
//! another. All add a token's pairs in the order in which the routing has them.

mod batched_mm;
mod call;
mod eager;
mod grouped_mm;
mod layer;
mod schedule;
mod tables;

use std::sync::Arc;

use moexperts_core::ExpertsBackend;

pub use self::{batched_mm::BatchedMm, eager::Eager, grouped_mm::GroupedMm, schedule::Schedule};
use crate::cuda::Cuda;

/// The backends that come with the device, in the order users see them.
pub(crate) fn built_in() -> Vec<Arc<dyn ExpertsBackend<Cuda>>> {
    vec![Arc::new(Eager), Arc::new(BatchedMm), Arc::new(GroupedMm)]
}
