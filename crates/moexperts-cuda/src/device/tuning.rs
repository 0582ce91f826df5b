//! The settings of the GPU's kernels.

use moexperts_core::{Knob, Result, Tuning};

use crate::{cuda::Cuda, product::linear, runtime::memory::CudaMatrix, tuning::KNOBS};

impl Tuning for Cuda {
    fn knobs(&self) -> &'static [Knob] {
        &KNOBS
    }

    fn with_knob(&self, index: usize, value: usize) -> Self {
        self.tuned(self.tuning().with(index, value))
    }

    fn fingerprint(&self) -> String {
        let (major, minor) = self.properties().compute_capability;
        format!("{}, sm_{major}{minor}", self.properties().name)
    }

    fn kernel_name(&self, weight: &CudaMatrix, rows: usize) -> String {
        linear::kernel_name(self, weight, rows)
    }

    fn resident_copy(&self, _weight: &CudaMatrix) -> Result<Option<CudaMatrix>> {
        Ok(None)
    }
}
