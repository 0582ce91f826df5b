//! One ragged product over all experts.

use moexperts_core::{ExpertsBackend, ExpertsCall, ExpertsSpec, Result, Tensor, checks};

use super::{
    layer::{ExpertsLayer, Pairs},
    rows_backend::{RowsBackend, RowsCall},
};
use crate::{cpu::Cpu, rows::RowsMut};

/// Cuts the columns, not the experts: each thread owns a slice of I for every expert, then, after
/// one barrier, a slice of H. Each expert's weights are read once for all its pairs.
#[derive(Debug, Clone, Copy, Default)]
pub struct GroupedMm;

impl ExpertsBackend<Cpu> for GroupedMm {
    fn name(&self) -> &str {
        "grouped_mm"
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

    fn groups_tokens(&self) -> bool {
        true
    }
}

impl RowsBackend for GroupedMm {
    fn forward_rows(&self, call: RowsCall<'_>, out: RowsMut<'_>) -> Result<()> {
        let mut layer = ExpertsLayer::new(self.name(), Pairs::Together, call, out)?;
        let groups = layer.groups();
        layer.add(groups);
        layer.finish();
        Ok(())
    }
}
