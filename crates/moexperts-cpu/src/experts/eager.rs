//! One expert after another.

use moexperts_core::{ExpertsBackend, ExpertsCall, ExpertsSpec, Result, Tensor, checks};

use super::{
    layer::{ExpertsLayer, Pairs},
    rows_backend::{RowsBackend, RowsCall},
};
use crate::{cpu::Cpu, rows::RowsMut};

/// The reference among the backends: for each expert that was hit, in ascending id, its gate and
/// up products, the activation, its down product, and the weighted sum, each finished before the
/// next begins.
#[derive(Debug, Clone, Copy, Default)]
pub struct Eager;

impl ExpertsBackend<Cpu> for Eager {
    fn name(&self) -> &str {
        "eager"
    }

    fn check(&self, spec: &ExpertsSpec, device: &Cpu) -> Result<()> {
        checks::backend(self.name(), device, spec)
    }

    fn forward(&self, call: ExpertsCall<'_, Cpu>, out: &mut Tensor) -> Result<()> {
        self.forward_rows(call.into(), out.into())
    }

    fn groups_tokens(&self) -> bool {
        true
    }
}

impl RowsBackend for Eager {
    fn forward_rows(&self, call: RowsCall<'_>, out: RowsMut<'_>) -> Result<()> {
        let mut layer = ExpertsLayer::new(self.name(), Pairs::Together, call, out)?;
        for group in layer.groups() {
            layer.add(std::slice::from_ref(group));
        }
        layer.finish();
        Ok(())
    }
}
