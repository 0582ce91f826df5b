//! How work runs on the CPU.

use std::sync::Arc;

use moexperts_core::{DeviceKind, Execution, ExpertsBackend};

use crate::{
    cpu::Cpu,
    experts::{BatchedMm, Eager, GroupedMm},
};

impl Execution for Cpu {
    const NAME: &'static str = "CPU";
    const KIND: DeviceKind = DeviceKind::Cpu;

    type Recording = ();
    type Experts = Self;

    fn built_in_experts() -> Vec<Arc<dyn ExpertsBackend<Self>>> {
        vec![Arc::new(Eager), Arc::new(BatchedMm), Arc::new(GroupedMm)]
    }

    fn experts_device(&self) -> &Self {
        self
    }

    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.threads().enter(work)
    }

    fn enter_plan<R: Send>(&self, _: Option<&mut ()>, work: impl FnOnce() -> R + Send) -> R {
        self.threads().lead(work)
    }
}
