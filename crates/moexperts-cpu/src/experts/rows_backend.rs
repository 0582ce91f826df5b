//! Backends over activations that a host owns, such as a Python framework.

use moexperts_core::{Experts, ExpertsBackend, ExpertsCall, Result, Routing, Scratch};

use crate::{
    cpu::Cpu,
    rows::{Rows, RowsMut},
};

/// A backend that also computes on borrowed activations, in the dtype that they have.
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
