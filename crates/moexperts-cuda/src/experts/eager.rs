//! One expert after another.

use moexperts_core::{ExpertsBackend, ExpertsCall, ExpertsSpec, Result, checks};

use super::{
    layer::{Layer, Ordered, Room},
    tables::Tables,
};
use crate::{
    cuda::Cuda,
    runtime::memory::{CudaTensor, Indices},
};

/// The reference among the backends: it reads the routing, and for each expert that was hit, in
/// ascending id, it submits the gate and up products with their activation, then the down product; in
/// the end the weighted sum.
#[derive(Debug, Clone, Copy, Default)]
pub struct Eager;

/// The order of the pairs, brought to the device.
#[derive(Debug, Default)]
struct Order {
    offsets: Indices,
    tokens: Indices,
    pairs: Indices,
}

impl ExpertsBackend<Cuda> for Eager {
    fn name(&self) -> &str {
        "eager"
    }

    fn check(&self, spec: &ExpertsSpec, device: &Cuda) -> Result<()> {
        checks::backend(self.name(), device, spec)
    }

    fn forward(&self, call: ExpertsCall<'_, Cuda>, out: &mut CudaTensor) -> Result<()> {
        super::check_call(self.name(), &call, out)?;
        let (cuda, experts) = (call.device, call.experts.spec().experts);
        let tables = Tables::of(cuda, call.experts)?;
        let routing = call.routing.to_host(cuda)?;
        let ids = routing.top_k_index();
        let mut pairs: Vec<u32> = (0..ids.len() as u32).collect();
        pairs.retain(|&pair| (ids[pair as usize] as usize) < experts);
        pairs.sort_by_key(|&pair| ids[pair as usize]);
        let begins =
            |expert: usize| pairs.partition_point(|&pair| (ids[pair as usize] as usize) < expert);
        let offsets: Vec<u32> = (0..=experts).map(|expert| begins(expert) as u32).collect();
        let top_k = routing.top_k() as u32;
        let order = call.scratch.slot::<Order>();
        let ordered = Ordered {
            offsets: order.offsets.upload(cuda, offsets.iter().copied())?,
            tokens: order.tokens.upload(cuda, pairs.iter().map(|pair| pair / top_k))?,
            pairs: order.pairs.upload(cuda, pairs.iter().copied())?,
        };
        let room = call.scratch.slot::<Room>();
        let layer = Layer::new(cuda, call.experts, call.x, call.routing, &tables, room)?;
        for (expert, range) in offsets.windows(2).enumerate() {
            layer.run(ordered, expert, 1, (range[1] - range[0]) as usize)?;
        }
        layer.combine(call.routing, out)
    }

    fn groups_tokens(&self) -> bool {
        true
    }
}
