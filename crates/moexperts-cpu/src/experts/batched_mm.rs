//! Every (token, expert) pair on its own.

use moexperts_core::{ExpertsBackend, ExpertsCall, ExpertsSpec, Result, Tensor, checks};

use super::{
    RowsBackend, RowsCall,
    layer::{Layer, Pairs},
};
use crate::{cpu::Cpu, rows::RowsMut};

/// Each pair is a product of its own that points at its expert's rows: no two share the weights
/// that one of them read, and no weights are duplicated.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchedMm;

impl ExpertsBackend<Cpu> for BatchedMm {
    fn name(&self) -> &str {
        "batched_mm"
    }

    fn check(&self, spec: &ExpertsSpec, device: &Cpu) -> Result<()> {
        checks::backend(self.name(), device, spec)
    }

    fn forward(&self, call: ExpertsCall<'_, Cpu>, out: &mut Tensor) -> Result<()> {
        self.forward_rows(call.into(), out.into())
    }

    fn reads_routing_on_host(&self) -> bool {
        false
    }
}

impl RowsBackend for BatchedMm {
    fn forward_rows(&self, call: RowsCall<'_>, out: RowsMut<'_>) -> Result<()> {
        let mut layer = Layer::new(self.name(), Pairs::Alone, call, out)?;
        layer.add(layer.groups());
        layer.finish();
        Ok(())
    }
}
