//! All pairs of an expert together.

use moexperts_core::{ExpertsBackend, ExpertsCall, ExpertsSpec, Result, checks};

use super::{
    layer::{Layer, Ordered, Room},
    schedule::Schedule,
    tables::Tables,
};
use crate::{cuda::Cuda, runtime::memory::CudaTensor};

/// The pairs are ordered by expert, and each half of the layer is one ragged grouped product: an
/// expert's weights are read once. Everything is arranged on the device: nothing of the routing is
/// known to the host.
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
        super::check_call(self.name(), &call, out)?;
        let (cuda, spec) = (call.device, call.experts.spec());
        let tables = Tables::of(cuda, call.experts)?;
        let schedule = call.scratch.slot::<Schedule>();
        schedule.order(cuda, call.routing, spec.experts)?;
        let ordered = Ordered {
            offsets: schedule.offsets(),
            tokens: schedule.tokens(),
            pairs: schedule.pairs(),
        };
        let room = call.scratch.slot::<Room>();
        let layer = Layer::new(call.device, call.experts, call.x, call.routing, &tables, room)?;
        layer.run(ordered, 0, spec.experts, call.x.rows() * call.routing.top_k())?;
        layer.combine(call.routing, out)
    }

    fn reads_routing_on_host(&self) -> bool {
        false
    }

    fn groups_tokens(&self) -> bool {
        true
    }
}
