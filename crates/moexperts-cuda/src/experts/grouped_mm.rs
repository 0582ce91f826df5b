//! The pairs of an expert together.

use moexperts_core::{ExpertsBackend, ExpertsCall, ExpertsSpec, Result, checks};

use super::{
    call::check_call,
    layer::{GroupedLayer, GroupedScratch, OrderedPairs},
    schedule::Schedule,
    tables::Tables,
};
use crate::{cuda::Cuda, runtime::memory::CudaTensor};

/// The pairs are ordered by expert, and each half of the layer is one ragged grouped product: an
/// expert's weights are read once. Pairs are ordered on the device: the host does not read the routing.
#[derive(Debug, Clone, Copy, Default)]
pub struct GroupedMm;

impl ExpertsBackend<Cuda> for GroupedMm {
    fn name(&self) -> &str {
        "grouped_mm"
    }

    fn check(&self, spec: &ExpertsSpec, device: &Cuda) -> Result<()> {
        checks::backend(self.name(), device, spec)
    }

    fn forward(&self, call: ExpertsCall<'_, Cuda>, out: &mut CudaTensor) -> Result<()> {
        check_call(self.name(), &call, out)?;
        let (cuda, spec) = (call.device, call.experts.spec());
        let tables = Tables::of(cuda, call.experts)?;
        let schedule = call.scratch.slot::<Schedule>();
        schedule.order(cuda, call.routing, spec.experts)?;
        let ordered = OrderedPairs {
            offsets: schedule.offsets().ptr(cuda),
            tokens: schedule.tokens().ptr(cuda),
            pairs: schedule.pairs().ptr(cuda),
        };
        let scratch = call.scratch.slot::<GroupedScratch>();
        let layer = GroupedLayer::new(cuda, call.experts, call.x, call.routing, &tables, scratch)?;
        let pairs = call.x.rows() * call.routing.top_k();
        // SAFETY: the schedule has just ordered the pairs of this routing over all experts; `check_call`
        // found that x, routing and results fit them.
        unsafe {
            layer.run(ordered, 0, spec.experts, pairs)?;
            layer.combine(call.routing, out)
        }
    }

    fn reads_routing_on_host(&self) -> bool {
        false
    }

    fn groups_tokens(&self) -> bool {
        true
    }
}
