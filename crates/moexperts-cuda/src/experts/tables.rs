//! Tables of the weights of a layer's experts, on the device.

use std::sync::Arc;

use moexperts_core::{Expert, Experts, Result};

use super::call::dtype;
use crate::{
    cuda::Cuda,
    product::{grouped::Groups, params::GroupWeights},
    runtime::memory::{CudaMatrix, CudaVector},
};

/// The addresses of the weights of a layer's experts, as kernels take them; made once.
#[derive(Debug)]
pub(super) struct Tables {
    /// First the gate, second the up projection; first the up projection where there is no gate.
    pub(super) gate_up: Groups,
    /// First the down projection.
    pub(super) down: Groups,
}

impl Tables {
    /// The tables of a layer.
    ///
    /// # Errors
    /// If the device has not enough memory.
    pub(super) fn of(cuda: &Cuda, experts: &Experts<Cuda>) -> Result<Arc<Self>> {
        experts.cache().get_or_try_make(|| {
            let tables = Self::new(cuda, experts)?;
            let size_bytes = tables.gate_up.size_bytes() + tables.down.size_bytes();
            Ok((tables, size_bytes))
        })
    }

    fn new(cuda: &Cuda, experts: &Experts<Cuda>) -> Result<Self> {
        let spec = experts.spec();
        let (hidden, intermediate, dtype) = (spec.hidden, spec.intermediate, dtype(spec));
        let all = || (0..spec.experts).map(|index| experts.expert(index));
        let gate_up = |expert: &Expert<CudaMatrix, CudaVector>| match &expert.gate_proj {
            Some(gate) => GroupWeights::new(cuda, gate, Some(&expert.up_proj)),
            None => GroupWeights::new(cuda, &expert.up_proj, None),
        };
        let gate_up: Vec<_> = all().map(gate_up).collect();
        let down: Vec<_> =
            all().map(|expert| GroupWeights::new(cuda, &expert.down_proj, None)).collect();
        Ok(Self {
            gate_up: Groups::new(cuda, dtype, [intermediate, hidden], &gate_up)?,
            down: Groups::new(cuda, dtype, [hidden, intermediate], &down)?,
        })
    }
}
