//! The settings of the CPU's kernels.

use moexperts_core::{Knob, Matrix, Result, Tuning};

use crate::{cpu::Cpu, huge_pages, tuning::KNOBS};

impl Tuning for Cpu {
    fn knobs(&self) -> &'static [Knob] {
        KNOBS
    }

    fn with_knob(&self, index: usize, value: usize) -> Self {
        self.tuned(self.tuning().with(index, value))
    }

    fn fingerprint(&self) -> String {
        let processor = Self::processor().unwrap_or_else(|| "unknown processor".to_owned());
        format!("{processor}, {}, {} threads", self.isa(), self.thread_count())
    }

    fn kernel_name(&self, weight: &Matrix, rows: usize) -> String {
        let kernel = self.kernel(weight.format());
        let form = match kernel.in_panels(rows) {
            (0, _) => "dot",
            (paneled, _) if paneled == rows => "lanes",
            _ => "lanes + dot",
        };
        format!("{} {form}", kernel.isa())
    }

    fn resident_copy(&self, weight: &Matrix) -> Result<Option<Matrix>> {
        huge_pages::copy(self, weight)
    }
}
