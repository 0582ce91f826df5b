//! What checkpoints call the tensors of a Mixture-of-Experts block, and how they store its experts.

use crate::weights::Orientation;

/// What one dialect calls the tensors of a Mixture-of-Experts block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MoeNames {
    /// The module in the layer.
    pub module: &'static str,
    /// The router's linear layer, a module of the block.
    pub router: &'static str,
    /// What is added to what experts are picked on, a tensor of the block.
    pub pick_bias: &'static str,
    /// The factors on the experts' weights, a tensor of the block.
    pub per_expert_scale: &'static str,
    /// The tensors of the experts.
    pub experts: ExpertTensors,
}

/// How a dialect stores the experts of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExpertTensors {
    /// One by one.
    Separate(ExpertNames),
    /// One tensor for each projection.
    Fused(FusedExperts),
    /// Fused where the checkpoint has such tensors, else one by one.
    Either(ExpertNames, FusedExperts),
}

/// Experts stored one by one: `{experts}.N.{gate_proj}.weight` in the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
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
#[non_exhaustive]
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
    pub(super) fn of_each(&self, module: &str, projection: &str) -> String {
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
    pub(super) fn projections(&self, size: ExpertsSize, module: &str) -> GateUpDown<Stacked<3>> {
        let ExpertsSize { experts, inner, hidden } = size;
        GateUpDown {
            gate_up: (format!("{module}.{}", self.gate_up_proj), [experts, 2 * inner, hidden]),
            down: (format!("{module}.{}", self.down_proj), [experts, hidden, inner]),
        }
    }

    /// Names and shapes [E, out] of their biases.
    pub(super) fn biases(&self, size: ExpertsSize, module: &str) -> GateUpDown<Stacked<2>> {
        let ExpertsSize { experts, inner, hidden } = size;
        GateUpDown {
            gate_up: (format!("{module}.{}", self.gate_up_proj_bias), [experts, 2 * inner]),
            down: (format!("{module}.{}", self.down_proj_bias), [experts, hidden]),
        }
    }
}

/// The sizes of a block's experts.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExpertsSize {
    pub(super) experts: usize,
    pub(super) inner: usize,
    pub(super) hidden: usize,
}

/// Name and shape of a tensor of all experts.
pub(super) type Stacked<const AXES: usize> = (String, [usize; AXES]);

/// Something of each of the two fused projections.
#[derive(Debug)]
pub(super) struct GateUpDown<T> {
    pub(super) gate_up: T,
    pub(super) down: T,
}

impl MoeNames {
    /// `mlp.gate` and `mlp.experts`, as most families have them.
    pub const LLAMA: Self = Self {
        module: "mlp",
        router: "gate",
        pick_bias: "gate.e_score_correction_bias",
        per_expert_scale: "gate.per_expert_scale",
        experts: ExpertTensors::Either(ExpertNames::LLAMA, FusedExperts::TRANSFORMERS),
    };
}

/// How one checkpoint stores the experts of a block.
#[derive(Debug)]
pub(super) enum StoredExperts {
    Separate(ExpertNames),
    Fused(FusedExperts),
}

impl ExpertTensors {
    /// How a checkpoint stores the experts of block `module`.
    pub(super) fn stored(self, module: &str, contains: impl Fn(&str) -> bool) -> StoredExperts {
        match self {
            Self::Separate(names) => StoredExperts::Separate(names),
            Self::Fused(fused) => StoredExperts::Fused(fused),
            Self::Either(names, fused) => {
                match contains(&format!("{module}.{}", fused.gate_up_proj)) {
                    true => StoredExperts::Fused(fused),
                    false => StoredExperts::Separate(names),
                }
            }
        }
    }
}
