//! OLMoE.

use moexperts_core::RouterSpec;

use super::{
    family::Family,
    read::{Defaults, ExpertsKeys, activation, decoder, dimension, limit, num_experts, num_layers},
};
use crate::{
    blocks::{Attention, FeedForward, LayerSpec, Mixer, Moe, QkNorm},
    config::Config,
    error::Result,
    model::DecoderSpec,
};

pub(super) const FAMILY: Family = Family::causal_lm("olmoe", describe);

const DEFAULTS: Defaults = Defaults {
    vocab_size: 50_304,
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-5,
    ..Defaults::COMMON
};

fn describe(config: &Config) -> Result<DecoderSpec> {
    let (mut spec, attention) = decoder(config, &DEFAULTS)?;
    let experts = num_experts(config, ExpertsKeys::LOCAL_FIRST, 64)?;
    let inner = dimension(config, "intermediate_size", 2048)?;
    let top_k = config.or("num_experts_per_tok", 8)?;
    let router = RouterSpec::softmax(top_k, config.or("norm_topk_prob", false)?);
    let moe = Moe::new(experts, inner, router, activation(config)?);
    let bias = config.or("attention_bias", false)?;
    let attention = Attention {
        qkv_bias: bias,
        o_bias: bias,
        qk_norm: QkNorm::Whole,
        clip_qkv: limit(config, "clip_qkv")?,
        ..attention
    };
    let layer = LayerSpec::pre_norm(Mixer::Attention(attention), FeedForward::Moe(moe));
    spec.layers = vec![layer; num_layers(config, 16)?];
    Ok(spec)
}
