//! Every (token, expert) pair alone.

use moexperts_core::{ExpertsBackend, ExpertsCall, ExpertsSpec, Result, Tensor, checks};

use super::{
    layer::{ExpertsLayer, Pairs},
    rows_backend::{RowsBackend, RowsCall},
};
use crate::{cpu::Cpu, rows::RowsMut};

/// Each pair is a separate product that points at its expert's rows: weights are neither copied nor
/// shared between pairs.
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
        let mut layer = ExpertsLayer::new(self.name(), Pairs::Alone, call, out)?;
        layer.add(layer.groups());
        layer.finish();
        Ok(())
    }
}
