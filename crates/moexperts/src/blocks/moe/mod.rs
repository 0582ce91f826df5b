//! A Mixture-of-Experts block: a router, experts, and the shared expert beside them.

mod load;
mod names;

use std::sync::Arc;

use moexperts_core::{Activation, Device, Experts, ExpertsSpec, RouterSpec};

pub use self::names::{ExpertNames, ExpertTensors, FusedExperts, MoeNames};
use self::names::{ExpertsSize, GateUpDown, StoredExperts};
use super::{context::Context, dense::Dense};
use crate::{
    error::{Error, Result},
    graph::{Builder, Router, StageKind, Value},
    weights::{Orientation, Share, TensorKind, Tensors, Weights},
};

/// A Mixture-of-Experts block.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Moe {
    /// E: experts.
    pub num_experts: usize,
    /// I: inner width of an expert.
    pub moe_intermediate_size: usize,
    /// How router logits become a routing.
    pub router: RouterSpec,
    /// Whether the router's linear layer has a bias.
    pub router_bias: bool,
    /// Whether a bias is added to what experts are picked on, and not to their weights.
    pub pick_bias: bool,
    /// Whether each expert has a factor on its weight.
    pub per_expert_scale: bool,
    /// What stands between an expert's products.
    pub activation: Activation,
    /// Whether the experts' projections have biases.
    pub expert_bias: bool,
    /// An expert for every token, if there is one.
    pub shared_expert: Option<SharedExpert>,
    /// What checkpoints call the tensors, in each dialect that there is; published ones the first.
    pub names: &'static [MoeNames],
}

/// The expert that every token goes to, beside the routed ones.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SharedExpert {
    /// The expert; its module is one of the block's.
    pub mlp: Dense,
    /// The linear layer whose sigmoid is the expert's weight; the weight is 1 without.
    pub gate: Option<&'static str>,
}

impl Moe {
    /// A block without biases or a shared expert, named as most families are.
    pub fn new(
        num_experts: usize,
        moe_intermediate_size: usize,
        router: RouterSpec,
        activation: Activation,
    ) -> Self {
        Self {
            num_experts,
            moe_intermediate_size,
            router,
            router_bias: false,
            pick_bias: false,
            per_expert_scale: false,
            activation,
            expert_bias: false,
            shared_expert: None,
            names: &[MoeNames::LLAMA],
        }
    }

    /// The dialect of a checkpoint: that whose router it has.
    fn names(&self, layer: &str, contains: impl Fn(&str) -> bool) -> &MoeNames {
        let has_router = |names: &&MoeNames| {
            contains(&format!("{layer}.{}.{}.weight", names.module, names.router))
        };
        self.names.iter().find(has_router).unwrap_or(&self.names[0])
    }

    /// The sizes of the experts in a decoder of width `hidden`.
    fn size(&self, hidden: usize) -> ExpertsSize {
        ExpertsSize { experts: self.num_experts, inner: self.moe_intermediate_size, hidden }
    }

    pub(super) fn tensors(&self, context: Context, layer: &str, list: &mut Tensors<'_>) {
        let size = self.size(context.hidden_size);
        let ExpertsSize { experts, hidden, .. } = size;
        let stored = list.stored();
        let names = self.names(layer, |name| stored.contains(name));
        let module = format!("{layer}.{}", names.module);
        list.linear(&format!("{module}.{}", names.router), [experts, hidden], self.router_bias);
        if self.pick_bias {
            list.bias(format!("{module}.{}", names.pick_bias), experts);
        }
        if self.per_expert_scale {
            list.bias(format!("{module}.{}", names.per_expert_scale), experts);
        }
        match names.experts.stored(&module, |name| stored.contains(name)) {
            StoredExperts::Separate(names) => self.separate_tensors(size, &names, &module, list),
            StoredExperts::Fused(names) => self.fused_tensors(size, &names, &module, list),
        }
        if let Some(shared) = &self.shared_expert {
            if let Some(gate) = shared.gate {
                list.linear(&format!("{module}.{gate}"), [1, hidden], false);
            }
            shared.mlp.tensors(context, &module, list);
        }
    }

    /// K of E experts.
    fn share(&self) -> Share {
        Share::Routed { top_k: self.router.top_k, experts: self.num_experts }
    }

    fn separate_tensors(
        &self,
        ExpertsSize { inner, hidden, .. }: ExpertsSize,
        names: &ExpertNames,
        module: &str,
        list: &mut Tensors<'_>,
    ) {
        for (name, shape) in [
            (names.gate_proj, [inner, hidden]),
            (names.up_proj, [inner, hidden]),
            (names.down_proj, [hidden, inner]),
        ] {
            let name = names.of_each(module, name);
            list.expert_linear(&name, shape, self.expert_bias, self.num_experts, self.share());
        }
    }

    fn fused_tensors(
        &self,
        size: ExpertsSize,
        names: &FusedExperts,
        module: &str,
        list: &mut Tensors<'_>,
    ) {
        let GateUpDown { gate_up, down } = names.projections(size, module);
        let exchanged = names.orientation == Orientation::InOut && {
            // Checkpoints of both orientations are about. The shape tells, unless the tensor is
            // square, which only one of the two can be.
            let (name, shape) = if 2 * size.inner == size.hidden { &down } else { &gate_up };
            list.stored().shape(name).is_none_or(|stored| stored != shape)
        };
        for (name, shape) in [gate_up, down] {
            list.stack(name, shape, exchanged, self.share());
        }
        if self.expert_bias {
            let GateUpDown { gate_up, down } = names.biases(size, module);
            for (name, shape) in [gate_up, down] {
                list.push(name, &shape, TensorKind::Bias, self.share());
            }
        }
    }

    pub(super) fn build<D: Device>(
        &self,
        context: Context,
        layer: &str,
        weights: &mut Weights<'_, D>,
        graph: &mut Builder<D>,
        x: Value,
    ) -> Result<Value> {
        let names = *self.names(layer, |name| weights.contains(name));
        let module = format!("{layer}.{}", names.module);
        let router = weights.linear(&format!("{module}.{}", names.router))?;
        let logits = graph.linear("gate", x, router);
        graph.show(StageKind::RouterLogits);
        let optional = |is_there: bool, name: &str| {
            is_there.then(|| weights.vector(&format!("{module}.{name}"))).transpose()
        };
        let router = Router {
            spec: self.router,
            pick_bias: optional(self.pick_bias, names.pick_bias)?,
            per_expert_scale: optional(self.per_expert_scale, names.per_expert_scale)?,
        };
        let routing = graph.route(picking(&self.router), logits, router);
        graph.show(StageKind::Routing);
        let experts = self.experts(context.hidden_size, &names, &module, weights)?;
        let out = graph.experts(Arc::new(experts), x, routing);
        graph.show(StageKind::ExpertsOutput);
        if let Some(shared) = &self.shared_expert {
            let y = shared.mlp.build(&module, weights, graph, x)?;
            match shared.gate {
                Some(gate) => {
                    let linear = weights.linear(&format!("{module}.{gate}"))?;
                    let gate = graph.linear("shared_expert_gate", x, linear);
                    graph.add_gated("shared_expert", out, y, gate);
                }
                None => graph.add("shared_expert", out, y, 1.0),
            }
        }
        Ok(out)
    }

    /// The experts, stored one by one or fused over the block: the same views either way.
    fn experts<D: Device>(
        &self,
        hidden: usize,
        names: &MoeNames,
        module: &str,
        weights: &mut Weights<'_, D>,
    ) -> Result<Experts<D::Experts>> {
        let size = self.size(hidden);
        let experts = match names.experts.stored(module, |name| weights.contains(name)) {
            StoredExperts::Separate(names) => {
                load::separate(self.num_experts, &names, module, weights)?
            }
            StoredExperts::Fused(names) => {
                load::fused(size, self.expert_bias, &names, module, weights)?
            }
        };
        let Some(first) = experts.first() else {
            let problem = "a Mixture-of-Experts layer has no experts".to_owned();
            return Err(Error::Checkpoint { file: module.to_owned(), problem });
        };
        let format = first.up_proj.weight.format();
        let (inner, count) = (self.moe_intermediate_size, self.num_experts);
        let mut spec =
            ExpertsSpec::gated_silu(hidden, inner, count, format).with_activation(self.activation);
        if self.expert_bias {
            spec = spec.with_bias();
        }
        Experts::load(weights.device().experts_device(), spec, experts).map_err(|error| {
            Error::Checkpoint { file: format!("{module}.experts"), problem: error.to_string() }
        })
    }
}

/// What a router does, for people who read what a plan does.
fn picking(router: &RouterSpec) -> &'static str {
    use moexperts_core::Score;
    match router.score {
        Score::Softmax => "softmax, top_k",
        Score::Sigmoid => "sigmoid, top_k",
        _ => "score, top_k",
    }
}
