//! A Mixture-of-Experts block: a router, experts, and the shared expert beside them.

use std::sync::Arc;

use moexperts_core::{
    Activation, Device, Expert, Experts, ExpertsSpec, Linear, Matrix, RouterSpec,
};

use super::{Context, Dense};
use crate::{
    error::{Error, Result},
    graph::{Builder, Router, StageKind, Value},
    weights::{Orientation, Share, TensorKind, Tensors, Weights},
};

/// A Mixture-of-Experts block.
#[derive(Debug, Clone, PartialEq)]
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
pub struct SharedExpert {
    /// The expert; its module is one of the block's.
    pub mlp: Dense,
    /// The linear layer whose sigmoid is the expert's weight; the weight is 1 without.
    pub gate: Option<&'static str>,
}

/// What one dialect calls the tensors of a Mixture-of-Experts block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoeNames {
    /// The module in the layer.
    pub module: &'static str,
    /// The router's linear layer, a module of the block.
    pub router: &'static str,
    /// What is added to what experts are picked on, a tensor of the block.
    pub pick_bias: &'static str,
    /// The factors on the experts' weights, a tensor of the block.
    pub per_expert_scale: &'static str,
    /// Experts stored one by one: `{experts}.N.{gate_proj}.weight` in the block.
    pub separate: Option<ExpertNames>,
    /// Experts stored as one tensor for each projection.
    pub fused: Option<FusedExperts>,
}

/// Experts stored one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertNames {
    /// The module of all experts in the block.
    pub experts: &'static str,
    /// The gate projection of an expert.
    pub gate_proj: &'static str,
    /// The up projection.
    pub up_proj: &'static str,
    /// The down projection.
    pub down_proj: &'static str,
}

/// Experts stored as one tensor for each projection, gate and up together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FusedExperts {
    /// [E, 2I, H], a tensor of the block.
    pub gate_up_proj: &'static str,
    /// [E, H, I].
    pub down_proj: &'static str,
    /// The biases [E, 2I], where there are some.
    pub gate_up_proj_bias: &'static str,
    /// The biases [E, H].
    pub down_proj_bias: &'static str,
    /// Which axis of a projection comes first in the family's checkpoints.
    pub orientation: Orientation,
    /// Whether rows of gate and up alternate; else all of gate come before all of up.
    pub interleaved: bool,
}

impl ExpertNames {
    /// `experts.N.gate_proj`, `up_proj` and `down_proj`.
    pub const LLAMA: Self = Self {
        experts: "experts",
        gate_proj: "gate_proj",
        up_proj: "up_proj",
        down_proj: "down_proj",
    };

    /// `experts.N.w1`, `w3` and `w2`.
    pub const W1_W3_W2: Self =
        Self { experts: "experts", gate_proj: "w1", up_proj: "w3", down_proj: "w2" };

    /// A projection of each expert, `{}` standing for the expert's number.
    fn of_each(&self, module: &str, projection: &str) -> String {
        format!("{module}.{}.{{}}.{projection}", self.experts)
    }
}

impl FusedExperts {
    /// `experts.gate_up_proj` [E, 2I, H] and `experts.down_proj` [E, H, I], as transformers 5 saves
    /// most families.
    pub const TRANSFORMERS: Self = Self {
        gate_up_proj: "experts.gate_up_proj",
        down_proj: "experts.down_proj",
        gate_up_proj_bias: "experts.gate_up_proj_bias",
        down_proj_bias: "experts.down_proj_bias",
        orientation: Orientation::OutIn,
        interleaved: false,
    };

    /// Names and shapes [E, out, in] of the two tensors.
    fn projections(&self, moe: &Moe, hidden: usize, module: &str) -> [(String, [usize; 3]); 2] {
        let (experts, inner) = (moe.num_experts, moe.moe_intermediate_size);
        [
            (format!("{module}.{}", self.gate_up_proj), [experts, 2 * inner, hidden]),
            (format!("{module}.{}", self.down_proj), [experts, hidden, inner]),
        ]
    }

    /// Names and shapes [E, out] of their biases.
    fn biases(&self, moe: &Moe, hidden: usize, module: &str) -> [(String, [usize; 2]); 2] {
        let (experts, inner) = (moe.num_experts, moe.moe_intermediate_size);
        [
            (format!("{module}.{}", self.gate_up_proj_bias), [experts, 2 * inner]),
            (format!("{module}.{}", self.down_proj_bias), [experts, hidden]),
        ]
    }
}

impl MoeNames {
    /// `mlp.gate` and `mlp.experts`, as most families have them.
    pub const LLAMA: Self = Self {
        module: "mlp",
        router: "gate",
        pick_bias: "gate.e_score_correction_bias",
        per_expert_scale: "gate.per_expert_scale",
        separate: Some(ExpertNames::LLAMA),
        fused: Some(FusedExperts::TRANSFORMERS),
    };
}

/// Where the experts of a block are.
enum Form {
    Separate(ExpertNames),
    Fused(FusedExperts),
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

    fn form(&self, names: &MoeNames, module: &str, contains: impl Fn(&str) -> bool) -> Form {
        match (names.separate, names.fused) {
            (Some(separate), Some(fused)) => {
                match contains(&format!("{module}.{}", fused.gate_up_proj)) {
                    true => Form::Fused(fused),
                    false => Form::Separate(separate),
                }
            }
            (Some(separate), None) => Form::Separate(separate),
            (None, Some(fused)) => Form::Fused(fused),
            (None, None) => Form::Separate(ExpertNames::LLAMA),
        }
    }

    pub(super) fn tensors(&self, context: Context, layer: &str, list: &mut Tensors<'_>) {
        let (experts, inner, hidden) =
            (self.num_experts, self.moe_intermediate_size, context.hidden_size);
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
        let share = Share::Routed { top_k: self.router.top_k, experts };
        match self.form(names, &module, |name| stored.contains(name)) {
            Form::Separate(names) => {
                for (name, shape) in [
                    (names.gate_proj, [inner, hidden]),
                    (names.up_proj, [inner, hidden]),
                    (names.down_proj, [hidden, inner]),
                ] {
                    let shares = [self.router.top_k, experts];
                    let name = names.of_each(module.as_str(), name);
                    list.expert_linear(&name, shape, self.expert_bias, shares);
                }
            }
            Form::Fused(names) => {
                let projections = names.projections(self, hidden, &module);
                let exchanged = names.orientation == Orientation::InOut && {
                    // A square says nothing, and only one of the two can be one.
                    let at = usize::from(2 * inner == hidden);
                    let (name, shape) = &projections[at];
                    stored.shape(name).is_none_or(|stored| stored != shape)
                };
                for (name, shape) in projections {
                    list.stack(name, shape, exchanged, share);
                }
                if self.expert_bias {
                    for (name, shape) in names.biases(self, hidden, &module) {
                        list.push(name, &shape, TensorKind::Bias, share);
                    }
                }
            }
        }
        if let Some(shared) = &self.shared_expert {
            if let Some(gate) = shared.gate {
                list.linear(&format!("{module}.{gate}"), [1, hidden], false);
            }
            shared.mlp.tensors(context, &module, list);
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
        let experts = match self.form(names, module, |name| weights.contains(name)) {
            Form::Separate(names) => self.separate(&names, module, weights)?,
            Form::Fused(names) => self.fused(&names, hidden, module, weights)?,
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

    fn separate<D: Device>(
        &self,
        names: &ExpertNames,
        module: &str,
        weights: &mut Weights<'_, D>,
    ) -> Result<Vec<Expert<Matrix, Vec<f32>>>> {
        let [gate_proj, up_proj, down_proj] = [names.gate_proj, names.up_proj, names.down_proj]
            .map(|name| names.of_each(module, name));
        let expert = |expert: usize| {
            let mut load = |name: &str| weights.host_linear(name, Some(expert));
            Ok(Expert {
                gate_proj: Some(load(&gate_proj)?),
                up_proj: load(&up_proj)?,
                down_proj: load(&down_proj)?,
            })
        };
        (0..self.num_experts).map(expert).collect()
    }

    fn fused<D: Device>(
        &self,
        names: &FusedExperts,
        hidden: usize,
        module: &str,
        weights: &mut Weights<'_, D>,
    ) -> Result<Vec<Expert<Matrix, Vec<f32>>>> {
        let inner = self.moe_intermediate_size;
        let [gate_up, down] = names.projections(self, hidden, module).map(|(name, _)| name);
        let (gate_up, down) = (weights.stack(&gate_up)?, weights.stack(&down)?);
        let biases = match self.expert_bias {
            true => {
                let [gate_up, down] = names.biases(self, hidden, module).map(|(name, _)| name);
                Some([weights.host_vector(&gate_up)?, weights.host_vector(&down)?])
            }
            false => None,
        };
        let experts = gate_up.iter().zip(down).enumerate().map(|(index, (gate_up, down))| {
            let half = |second: usize| match names.interleaved {
                true => gate_up.rows_stepped(second..2 * inner, 2),
                false => gate_up.row_range(second * inner..(second + 1) * inner),
            };
            let half_bias = |second: usize| {
                let all = &biases.as_ref()?[0][index * 2 * inner..(index + 1) * 2 * inner];
                Some(match names.interleaved {
                    true => all.iter().copied().skip(second).step_by(2).collect(),
                    false => all[second * inner..(second + 1) * inner].to_vec(),
                })
            };
            let down_bias = biases
                .as_ref()
                .map(|[_, down]| down[index * hidden..(index + 1) * hidden].to_vec());
            Expert {
                gate_proj: Some(Linear { weight: half(0), bias: half_bias(0) }),
                up_proj: Linear { weight: half(1), bias: half_bias(1) },
                down_proj: Linear { weight: down, bias: down_bias },
            }
        });
        Ok(experts.collect())
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
