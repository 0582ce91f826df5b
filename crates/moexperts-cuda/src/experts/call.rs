//! What the backends share: checks of a call, its sizes.

use moexperts_core::{DType, Experts, ExpertsCall, ExpertsSpec, Result, checks};

use crate::{
    cuda::Cuda,
    error::problem,
    runtime::memory::{CudaRouting, CudaTensor},
};

/// Checks that a call's experts are of a kind that this crate runs, and that its shapes agree.
pub(super) fn check_call(name: &str, call: &ExpertsCall<'_, Cuda>, out: &CudaTensor) -> Result<()> {
    let (spec, tokens) = (call.experts.spec(), call.x.rows());
    checks::backend(name, call.device, spec)?;
    let (routed, top_k) = (call.routing.tokens(), call.routing.top_k());
    checks::experts(spec, call.x.shape(), [routed, top_k], out.shape())?;
    // Kernels count pairs in 32 bits, some with a sign.
    if tokens.checked_mul(top_k).is_none_or(|pairs| i32::try_from(pairs).is_err()) {
        return Err(problem(format!("{tokens} tokens of {top_k} experts each are too many")));
    }
    Ok(())
}

/// The element type of the weights of experts that a backend runs.
///
/// # Panics
/// If they have none: [`check_call`] refuses such experts.
pub(super) fn dtype(spec: &ExpertsSpec) -> DType {
    spec.format.dense().expect("the format was checked")
}

/// The sizes of a call, as kernels take them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) tokens: usize,
    pub(super) top_k: usize,
    pub(super) experts: usize,
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
}

impl Sizes {
    pub(super) fn new(experts: &Experts<Cuda>, x: &CudaTensor, routing: &CudaRouting) -> Self {
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
    pub(super) fn pairs(&self) -> usize {
        self.tokens * self.top_k
    }
}
