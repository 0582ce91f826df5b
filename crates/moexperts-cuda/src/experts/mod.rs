//! The experts backends of the GPU, and what they share.
//!
//! `batched_mm` lets every pair (token, expert) pass on its own, `grouped_mm` the pairs of an expert
//! together, both without a word from the host about the routing; `eager` reads it and goes from
//! expert to expert. All add a token's pairs in the order in which the routing has them.

mod batched_mm;
mod eager;
mod grouped_mm;
mod layer;
mod schedule;
mod tables;

use std::sync::Arc;

use moexperts_core::{DType, Experts, ExpertsBackend, ExpertsCall, ExpertsSpec, Result, checks};

use crate::{
    cuda::Cuda,
    runtime::memory::{CudaRouting, CudaTensor},
};

pub use batched_mm::BatchedMm;
pub use eager::Eager;
pub use grouped_mm::GroupedMm;
pub use schedule::Schedule;

/// The backends that come with the device, in the order users see them.
pub(crate) fn built_in() -> Vec<Arc<dyn ExpertsBackend<Cuda>>> {
    vec![Arc::new(Eager), Arc::new(BatchedMm), Arc::new(GroupedMm)]
}

/// Whether a call's experts are of a kind that this crate runs, and its shapes agree.
fn check_call(name: &str, call: &ExpertsCall<'_, Cuda>, out: &CudaTensor) -> Result<()> {
    let (spec, tokens) = (call.experts.spec(), call.x.rows());
    checks::backend(name, call.device, spec)?;
    let (routed, top_k) = (call.routing.tokens(), call.routing.top_k());
    checks::experts(spec, call.x.shape(), [routed, top_k], out.shape())?;
    // Kernels count pairs in 32 bits, some with a sign.
    if tokens.checked_mul(top_k).is_none_or(|pairs| i32::try_from(pairs).is_err()) {
        return Err(Cuda::problem(format!("{tokens} tokens of {top_k} experts each are too many")));
    }
    Ok(())
}

/// The element type of the weights of experts that a backend runs.
///
/// # Panics
/// If they have none: [`check_call`] refuses such experts.
fn dtype(spec: &ExpertsSpec) -> DType {
    spec.format.dense().expect("the format was checked")
}

/// The sizes of a call, as kernels take them.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    tokens: usize,
    top_k: usize,
    experts: usize,
    hidden: usize,
    intermediate: usize,
}

impl Sizes {
    fn new(experts: &Experts<Cuda>, x: &CudaTensor, routing: &CudaRouting) -> Self {
        let spec = experts.spec();
        Self {
            tokens: x.rows(),
            top_k: routing.top_k(),
            experts: spec.experts,
            hidden: spec.hidden,
            intermediate: spec.intermediate,
        }
    }

    /// T · K.
    fn pairs(&self) -> usize {
        self.tokens * self.top_k
    }
}
