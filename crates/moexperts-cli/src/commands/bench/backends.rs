//! Which backends take part.

use std::sync::Arc;

use moexperts::{Cpu, Error, ExpertsBackend, ExpertsInterface, ExpertsSpec};

use crate::error::CliError;

/// A backend of the CPU.
pub(super) type Backend = Arc<dyn ExpertsBackend<Cpu>>;

/// Backends, and whether the user asked for each of them.
#[derive(Debug)]
pub(super) struct Backends {
    all: Vec<Backend>,
    named: bool,
}

impl Backends {
    /// Those of these names; every registered one if there are none.
    pub(super) fn named(names: &[String]) -> Result<Self, CliError> {
        let named = !names.is_empty();
        let all = match named {
            true => names.iter().map(|name| ExpertsInterface::get(name)).collect(),
            false => Ok(ExpertsInterface::all()),
        };
        Ok(Self { all: all.map_err(Error::from)?, named })
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.all.iter().map(|backend| backend.name().to_owned()).collect()
    }

    /// Those that can run these experts, and why the others cannot. One the user asked for has to.
    pub(super) fn able(
        &self,
        spec: &ExpertsSpec,
        cpu: &Cpu,
    ) -> Result<(Vec<Backend>, Vec<String>), CliError> {
        let (mut able, mut reasons) = (Vec::new(), Vec::new());
        for backend in &self.all {
            match backend.check(spec, cpu) {
                Ok(()) => able.push(Arc::clone(backend)),
                Err(error) if self.named => return Err(Error::from(error).into()),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Ok((able, reasons))
    }
}
