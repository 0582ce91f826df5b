//! One expert after another.

use moexperts_core::{ExpertsBackend, ExpertsCall, ExpertsSpec, Result, checks};

use super::{
    call::check_call,
    layer::{GroupedLayer, GroupedScratch, OrderedPairs},
    tables::Tables,
};
use crate::{
    cuda::Cuda,
    runtime::{buffer::Indices, memory::CudaTensor},
};

/// The reference among the backends: it reads the routing, then submits for each chosen expert, in
/// ascending order, the gate and up products with their activation and the down product; in the end the
/// weighted sum.
#[derive(Debug, Clone, Copy, Default)]
pub struct Eager;

/// The order of the pairs, uploaded.
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
        check_call(self.name(), &call, out)?;
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
        let ordered = OrderedPairs {
            offsets: order.offsets.upload(cuda, offsets.iter().copied())?,
            tokens: order.tokens.upload(cuda, pairs.iter().map(|pair| pair / top_k))?,
            pairs: order.pairs.upload(cuda, pairs.iter().copied())?,
        };
        let scratch = call.scratch.slot::<GroupedScratch>();
        let layer = GroupedLayer::new(cuda, call.experts, call.x, call.routing, &tables, scratch)?;
        for (expert, range) in offsets.windows(2).enumerate() {
            // SAFETY: the offsets of all experts, and a token and a pair of the call for each position, were
            // uploaded above; `check_call` found that x, routing and results fit these experts.
            unsafe { layer.run(ordered, expert, 1, (range[1] - range[0]) as usize) }?;
        }
        // SAFETY: `run` has computed every expert that a pair names; `out` is [T, H], as `check_call` found.
        unsafe { layer.combine(call.routing, out) }
    }

    fn groups_tokens(&self) -> bool {
        true
    }
}
