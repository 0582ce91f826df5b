//! Qwen3-MoE.

use moexperts_core::RouterSpec;

use super::{
    family::Family,
    read::{
        Defaults, SparseLayers, activation, decoder, dimension, num_experts, num_layers, window,
    },
};
use crate::{
    blocks::{Attention, Dense, FeedForward, LayerSpec, Mixer, Moe, QkNorm},
    config::Config,
    error::Result,
    model::DecoderSpec,
};

pub(super) const FAMILY: Family = Family::causal_lm("qwen3_moe", describe);

fn describe(config: &Config) -> Result<DecoderSpec> {
    let (mut spec, attention) = decoder(config, &Defaults::new(1e4, 1e-6))?;
    let experts = num_experts(config, 128)?;
    let inner = dimension(config, "moe_intermediate_size")?;
    let top_k = config.or("num_experts_per_tok", 8)?;
    let router = RouterSpec::softmax(top_k, config.or("norm_topk_prob", false)?);
    let moe = Moe::new(experts, inner, router, activation(config)?);
    let window = match config.or("use_sliding_window", false)? {
        true => window(config)?,
        false => None,
    };
    spec.layers = layers(config, attention, &moe, window)?;
    Ok(spec)
}

/// The layers of the decoder, with `moe` where one has experts.
pub(super) fn layers(
    config: &Config,
    heads: Attention,
    moe: &Moe,
    sliding_window: Option<usize>,
) -> Result<Vec<LayerSpec>> {
    let dense = Dense::new(dimension(config, "intermediate_size")?, moe.activation);
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
    Ok((0..num_layers(config)?).map(layer).collect())
}
