//! How work runs on the GPU.

use std::sync::Arc;

use moexperts_core::{DeviceKind, Execution, ExpertsBackend, Result};

use crate::{
    cuda::Cuda,
    error::DEVICE,
    experts,
    runtime::replay::{self, Recording},
};

impl Execution for Cuda {
    const NAME: &'static str = DEVICE;
    const KIND: DeviceKind = DeviceKind::Gpu;
    const CAPTURES_GRAPHS: bool = true;

    type Recording = Recording;
    type Experts = Self;

    fn built_in_experts() -> Vec<Arc<dyn ExpertsBackend<Self>>> {
        experts::built_in()
    }

    /// Few tokens hit few experts each, where the work by expert of `grouped_mm` leaves most of the
    /// GPU idle: `batched_mm`, whose work is by pair, decodes in its place.
    fn decode_experts(prefill: &str) -> &str {
        match prefill {
            "grouped_mm" => "batched_mm",
            _ => prefill,
        }
    }

    fn experts_device(&self) -> &Self {
        self
    }

    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    fn enter_plan<R: Send>(
        &self,
        recording: Option<&mut Recording>,
        work: impl FnOnce() -> R + Send,
    ) -> R {
        match recording {
            Some(recording) => replay::with(self.driver(), recording, work),
            None => work(),
        }
    }

    fn synchronize(&self) -> Result<()> {
        replay::finish(self.driver())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_replaces_grouped_mm_alone() {
        for (prefill, decode) in [
            ("grouped_mm", "batched_mm"),
            ("batched_mm", "batched_mm"),
            ("eager", "eager"),
            ("my_grouped_mm", "my_grouped_mm"),
        ] {
            assert_eq!(Cuda::decode_experts(prefill), decode);
        }
    }
}
