//! The experts backends of the CPU, and what they share.
//!
//! All three compute the same products and add a token's experts in ascending
//! id; they differ in how the work is cut, and in which pairs pass an expert's weights together.

mod batched_mm;
mod eager;
mod grouped_mm;
mod groups;
mod layer;
mod outputs;
mod pairs;

pub use batched_mm::BatchedMm;
pub use eager::Eager;
pub use grouped_mm::GroupedMm;
pub use pairs::{PairsCall, expert_linear};

use moexperts_core::{Experts, ExpertsBackend, ExpertsCall, Result, Routing, Scratch};

use crate::{
    cpu::Cpu,
    rows::{Rows, RowsMut},
};

/// A backend that also computes on activations that somebody else owns, in their dtype.
pub trait RowsBackend: ExpertsBackend<Cpu> {
    /// [`forward`](ExpertsBackend::forward) into `out` [T, H], which is overwritten. Sums are in
    /// f32, and rounded once.
    ///
    /// Weights whose values lie apart (`[in, out]`, interleaved) are read where they lie.
    ///
    /// # Errors
    /// If the shapes disagree, or the experts are of a kind the backend does not run.
    fn forward_rows(&self, call: RowsCall<'_>, out: RowsMut<'_>) -> Result<()>;
}

/// The arguments of one [`RowsBackend::forward_rows`].
#[derive(Debug)]
pub struct RowsCall<'a> {
    /// Where to compute.
    pub cpu: &'a Cpu,
    /// The layer's experts.
    pub experts: &'a Experts<Cpu>,
    /// hidden_states [T, H].
    pub x: Rows<'a>,
    /// top_k_index [T, K] and top_k_weights [T, K].
    pub routing: &'a Routing,
    /// The caller's buffers, kept from call to call.
    pub scratch: &'a mut Scratch,
}

impl<'a> From<ExpertsCall<'a, Cpu>> for RowsCall<'a> {
    fn from(call: ExpertsCall<'a, Cpu>) -> Self {
        let ExpertsCall { device: cpu, experts, x, routing, scratch } = call;
        Self { cpu, experts, x: x.into(), routing, scratch }
    }
}
