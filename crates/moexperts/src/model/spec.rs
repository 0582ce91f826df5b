//! What a family says about a model: everything but the weights.

use moexperts_core::{Activation, DType, Orientation, RouterSpec};

use super::{Rope, VisionSpec};

/// A model: a decoder, and what gives it pictures to read.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The text decoder.
    pub text: DecoderSpec,
    /// The vision tower of a multimodal model.
    pub vision: Option<VisionSpec>,
}

/// A decoder of pre-norm blocks: attention, then a dense or a Mixture-of-Experts layer.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderSpec {
    /// `model_type` of its config.
    pub model_type: String,
    /// Its sub-config in `config.json`: `text_config`, or `""` where the config is all its own.
    pub backbone: &'static str,
    /// The module its tensors are in: `model`.
    pub module: &'static str,
    /// V: rows of the embedding.
    pub vocab_size: usize,
    /// H: width of the residual stream.
    pub hidden_size: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f32,
    /// Positions the model was made for.
    pub max_position_embeddings: usize,
    /// Whether the embedding is the language model head too.
    pub tie_word_embeddings: bool,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Heads of every layer.
    pub attention: AttentionShape,
    /// The blocks, in order.
    pub layers: Vec<LayerSpec>,
}

/// Heads of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// One block.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub o_bias: bool,
    /// Norm of queries and keys before they are rotated.
    pub qk_norm: QkNorm,
    /// Bound on queries, keys and values.
    pub clip_qkv: Option<f32>,
    /// Tokens a token sees, itself included.
    pub sliding_window: Option<usize>,
    /// What follows the attention.
    pub mlp: MlpSpec,
}

/// Norm of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// Over each head: `q_norm` `[head_dim]`.
    PerHead,
    /// Over all heads together: `q_norm` `[heads · head_dim]`.
    Whole,
}

/// What follows an attention.
#[derive(Debug, Clone, PartialEq)]
pub enum MlpSpec {
    /// One gated layer for every token.
    Dense {
        /// Inner width.
        intermediate_size: usize,
        /// What stands between the products.
        activation: Activation,
    },
    /// A router and experts.
    Moe(MoeSpec),
}

/// A Mixture-of-Experts layer.
#[derive(Debug, Clone, PartialEq)]
pub struct MoeSpec {
    /// E: experts.
    pub num_experts: usize,
    /// I: inner width of an expert.
    pub moe_intermediate_size: usize,
    /// How tokens choose their experts.
    pub router: RouterSpec,
    /// What stands between an expert's products.
    pub activation: Activation,
    /// An expert for every token, if there is one.
    pub shared_expert: Option<SharedExpertSpec>,
    /// What the checkpoint calls the weights.
    pub names: ExpertNames,
    /// Which axis of fused projections comes first in the family's checkpoints.
    pub fused: Orientation,
}

/// The expert every token goes to, weighted by `sigmoid(shared_expert_gate(x))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedExpertSpec {
    /// Inner width.
    pub intermediate_size: usize,
}

/// What a checkpoint calls the parts of a Mixture-of-Experts layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertNames {
    /// Modules that may hold the router and the experts; the first that is there counts.
    pub modules: &'static [&'static str],
    /// The gate projection of an expert stored on its own.
    pub gate_proj: &'static str,
    /// The up projection.
    pub up_proj: &'static str,
    /// The down projection.
    pub down_proj: &'static str,
}

impl ExpertNames {
    /// `mlp.experts.N.gate_proj`, `up_proj`, `down_proj`: what most families use.
    pub const MLP: Self = Self {
        modules: &["mlp"],
        gate_proj: "gate_proj",
        up_proj: "up_proj",
        down_proj: "down_proj",
    };
}

impl DecoderSpec {
    /// Weights one token passes through, the embedding's row left out and the head included.
    pub fn active_weights(&self) -> usize {
        self.weights(|moe| moe.router.top_k)
    }

    /// Weights of the whole model, norms and biases left out.
    pub fn total_weights(&self) -> usize {
        let head = self.vocab_size * self.hidden_size;
        self.weights(|moe| moe.num_experts) + if self.tie_word_embeddings { 0 } else { head }
    }

    /// Bytes of weights a decode step of one sequence reads.
    pub fn bytes_per_token(&self, dtype: DType) -> usize {
        self.active_weights() * dtype.size_bytes()
    }

    /// The Mixture-of-Experts layers.
    pub fn moe_layers(&self) -> impl Iterator<Item = &MoeSpec> {
        self.layers.iter().filter_map(|layer| match &layer.mlp {
            MlpSpec::Moe(moe) => Some(moe),
            MlpSpec::Dense { .. } => None,
        })
    }

    fn weights(&self, experts: impl Fn(&MoeSpec) -> usize) -> usize {
        let h = self.hidden_size;
        let AttentionShape { heads, kv_heads, head_dim } = self.attention;
        let attention = 2 * h * head_dim * (heads + kv_heads);
        let mlp = |layer: &LayerSpec| match &layer.mlp {
            MlpSpec::Dense { intermediate_size, .. } => 3 * h * intermediate_size,
            MlpSpec::Moe(moe) => {
                let shared = moe.shared_expert.map_or(0, |s| 3 * h * s.intermediate_size + h);
                h * moe.num_experts + 3 * h * moe.moe_intermediate_size * experts(moe) + shared
            }
        };
        self.layers.iter().map(|layer| attention + mlp(layer)).sum::<usize>() + self.vocab_size * h
    }
}
