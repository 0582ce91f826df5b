//! A model as data: everything but the weights.

use moexperts_core::{DType, StateSpec};

use crate::{
    blocks::{Context, FeedForward, LayerSpec, Moe, Rope, RopeScaling, VisionSpec},
    weights::{AsPublished, Share, Stored, TensorKind, TensorSpec, Tensors},
};

/// A model: a decoder, and what gives it pictures to read.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelSpec {
    /// The text decoder.
    pub text: DecoderSpec,
    /// The vision tower of a multimodal model.
    pub vision: Option<VisionSpec>,
}

/// A decoder: an embedding, layers, a norm and a head.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DecoderSpec {
    /// `model_type` of its config.
    pub model_type: String,
    /// Its sub-config in `config.json`: `text_config`, or `""` where it is the whole config.
    pub backbone: &'static str,
    /// The module its tensors are in: `model`.
    pub module: &'static str,
    /// V: rows of the embedding.
    pub vocab_size: usize,
    /// H: width of the residual stream.
    pub hidden_size: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f32,
    /// Positions that `config.json` names; no limit, see [`trained_length`](Self::trained_length).
    pub max_position_embeddings: usize,
    /// Whether the embedding is the language model head too.
    pub tie_word_embeddings: bool,
    /// Factor on the embeddings.
    pub embedding_multiplier: f32,
    /// Divisor of the logits.
    pub logits_scaling: f32,
    /// The rotary embeddings that layers name by their index.
    pub ropes: Vec<Rope>,
    /// The layers, in order.
    pub layers: Vec<LayerSpec>,
}

impl ModelSpec {
    /// Every tensor of the model, as a checkpoint that stores it like `stored` has them.
    pub fn tensors(&self, stored: &dyn Stored) -> Vec<TensorSpec> {
        let mut list = Tensors::new(stored);
        self.text.list(&mut list);
        if let Some(vision) = &self.vision {
            vision.tensors(&mut list);
        }
        list.finish()
    }
}

impl DecoderSpec {
    /// Positions the model was made for, the scaling of its rotary embeddings included: the larger of
    /// `max_position_embeddings` and what the scaling stretches the original context to. Longer
    /// sequences are computed, and the text may get worse.
    pub fn trained_length(&self) -> usize {
        let max = self.max_position_embeddings;
        let stretched = |rope: &Rope| match rope.scaling {
            // LongRoPE's factors reach as far as `max_position_embeddings` says.
            RopeScaling::Default | RopeScaling::LongRope { .. } => max,
            RopeScaling::Linear { factor }
            | RopeScaling::Dynamic { factor }
            | RopeScaling::Proportional { factor, .. } => (factor * max as f64) as usize,
            RopeScaling::Yarn { factor, original_max_position_embeddings: original, .. }
            | RopeScaling::Llama3 { factor, original_max_position_embeddings: original, .. } => {
                (factor * original) as usize
            }
        };
        self.ropes.iter().map(stretched).fold(max, usize::max)
    }

    /// Positions the model was made for before its rotary embeddings were stretched: the smallest
    /// original context that a scaling names, or else `max_position_embeddings`.
    pub fn unscaled_length(&self) -> usize {
        let original = |rope: &Rope| match rope.scaling {
            RopeScaling::Yarn { original_max_position_embeddings: original, .. }
            | RopeScaling::Llama3 { original_max_position_embeddings: original, .. }
            | RopeScaling::LongRope { original_max_position_embeddings: original, .. } => {
                Some(original as usize)
            }
            _ => None,
        };
        self.ropes.iter().filter_map(original).min().unwrap_or(self.max_position_embeddings)
    }

    pub(crate) fn context(&self) -> Context {
        Context { hidden_size: self.hidden_size, rms_norm_eps: self.rms_norm_eps }
    }

    /// The name of a module of the decoder.
    pub(crate) fn name(&self, module: &str) -> String {
        format!("{}.{module}", self.module)
    }

    /// Every tensor of the decoder, as a checkpoint that stores it like `stored` has them.
    pub fn tensors(&self, stored: &dyn Stored) -> Vec<TensorSpec> {
        let mut list = Tensors::new(stored);
        self.list(&mut list);
        list.finish()
    }

    fn list(&self, list: &mut Tensors<'_>) {
        let table = [self.vocab_size, self.hidden_size];
        let embedding = self.name("embed_tokens.weight");
        list.push(embedding, &table, TensorKind::Embedding, Share::Row);
        for (index, layer) in self.layers.iter().enumerate() {
            layer.tensors(self.context(), &self.name(&format!("layers.{index}")), list);
        }
        list.norm(&self.name("norm"), self.hidden_size);
        if !self.tie_word_embeddings {
            list.linear("lm_head", table, false);
        }
    }

    /// What each layer keeps of a sequence.
    pub fn states(&self) -> Vec<StateSpec> {
        self.layers.iter().map(LayerSpec::state).collect()
    }

    /// Weights one token passes through, the embedding's row left out and the head included.
    pub fn active_weights(&self) -> usize {
        let tied = if self.tie_word_embeddings { self.vocab_size * self.hidden_size } else { 0 };
        self.weights(TensorSpec::active_elements).saturating_add(tied)
    }

    /// Weights of the whole model, norms and biases left out.
    pub fn total_weights(&self) -> usize {
        self.weights(TensorSpec::elements)
    }

    fn weights(&self, count: impl Fn(&TensorSpec) -> u128) -> usize {
        let tensors = self.tensors(&AsPublished);
        let weights = tensors.iter().filter(|tensor| tensor.is_weight()).map(count);
        usize::try_from(weights.fold(0, u128::saturating_add)).unwrap_or(usize::MAX)
    }

    /// Bytes of weights a decode step of one sequence reads.
    pub fn bytes_per_token(&self, dtype: DType) -> usize {
        self.active_weights().saturating_mul(dtype.size_bytes())
    }

    /// The Mixture-of-Experts blocks.
    pub fn moe_layers(&self) -> impl Iterator<Item = &Moe> {
        self.layers.iter().filter_map(|layer| match &layer.feed_forward {
            FeedForward::Moe(moe) => Some(moe),
            FeedForward::Dense(_) => None,
        })
    }
}
