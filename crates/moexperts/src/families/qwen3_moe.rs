//! Qwen3-MoE.

use moexperts_core::RouterSpec;

use super::{
    family::Family,
    read::{
        Defaults, ExpertsKeys, SparseLayers, activation, decoder, dimension, num_experts,
        num_layers, window,
    },
};
use crate::{
    blocks::{Attention, Dense, FeedForward, LayerSpec, Mixer, Moe, QkNorm},
    config::Config,
    error::Result,
    model::DecoderSpec,
};

pub(super) const FAMILY: Family = Family::causal_lm("qwen3_moe", describe);

const DEFAULTS: Defaults = Defaults { heads: 32, kv_heads: Some(4), ..Defaults::COMMON };

fn describe(config: &Config) -> Result<DecoderSpec> {
    let (mut spec, attention) = decoder(config, &DEFAULTS)?;
    let experts = num_experts(config, ExpertsKeys::LOCAL_FIRST, 128)?;
    let inner = dimension(config, "moe_intermediate_size", 768)?;
    let top_k = config.or("num_experts_per_tok", 8)?;
    let router = RouterSpec::softmax(top_k, config.or("norm_topk_prob", false)?);
    let moe = Moe::new(experts, inner, router, activation(config)?);
    let is_used = config.or("use_sliding_window", false)?;
    let window = window(config, Some(4096))?.filter(|_| is_used);
    let dense = dimension(config, "intermediate_size", 6144)?;
    spec.layers = layers(config, attention, &moe, dense, window)?;
    Ok(spec)
}

/// The layers of the decoder, with `moe` where one has experts and a block of inner width `dense`
/// where not.
pub(super) fn layers(
    config: &Config,
    heads: Attention,
    moe: &Moe,
    dense: usize,
    sliding_window: Option<usize>,
) -> Result<Vec<LayerSpec>> {
    let dense = Dense::new(dense, moe.activation);
    let bias = config.or("attention_bias", false)?;
    let attention = Attention {
        qkv_bias: bias,
        o_bias: bias,
        qk_norm: QkNorm::PerHead,
        sliding_window,
        ..heads
    };
    let sparse = SparseLayers::read(config)?;
    let layer = |index| {
        let feed_forward = match sparse.contains(index) {
            true => FeedForward::Moe(moe.clone()),
            false => FeedForward::Dense(dense),
        };
        LayerSpec::pre_norm(Mixer::Attention(attention.clone()), feed_forward)
    };
    Ok((0..num_layers(config, 24)?).map(layer).collect())
}
