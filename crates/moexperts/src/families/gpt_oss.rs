//! gpt-oss.

use moexperts_core::{Activation, RouterSpec};

use super::{
    family::Family,
    read::{
        Defaults, ExpertsKeys, decoder, dimension, factor, limit, num_experts, num_layers,
        sliding_layers, window,
    },
};
use crate::{
    blocks::{
        Attention, ExpertTensors, FeedForward, FusedExperts, LayerSpec, Mixer, Moe, MoeNames,
    },
    config::Config,
    error::Result,
    model::DecoderSpec,
    weights::Orientation,
};

pub(super) const FAMILY: Family = Family::causal_lm("gpt_oss", describe);

/// Rows of gate and up alternate, and every projection is stored [E, in, out].
const NAMES: &[MoeNames] = &[MoeNames {
    router: "router",
    experts: ExpertTensors::Fused(FusedExperts {
        orientation: Orientation::InOut,
        interleaved: true,
        ..FusedExperts::TRANSFORMERS
    }),
    ..MoeNames::LLAMA
}];

const DEFAULTS: Defaults = Defaults {
    vocab_size: 201_088,
    hidden_size: 2880,
    heads: 64,
    kv_heads: Some(8),
    head_dim: Some(64),
    max_position_embeddings: 131_072,
    rms_norm_eps: 1e-5,
    rope_theta: 1.5e5,
    rope_parameters: Some(
        r#"{"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "truncate": false, "original_max_position_embeddings": 4096}"#,
    ),
    layer_types: true,
    ..Defaults::COMMON
};

fn describe(config: &Config) -> Result<DecoderSpec> {
    let (mut spec, attention) = decoder(config, &DEFAULTS)?;
    let activation = Activation::ClampedSwiglu {
        alpha: factor(config, "swiglu_alpha", 1.702)?,
        limit: limit(config, "swiglu_limit")?.unwrap_or(7.0),
    };
    let inner = dimension(config, "intermediate_size", 2880)?;
    let router = RouterSpec::softmax(config.or("num_experts_per_tok", 4)?, true);
    let moe = Moe {
        router_bias: true,
        expert_bias: true,
        names: NAMES,
        ..Moe::new(num_experts(config, ExpertsKeys::LOCAL_LAST, 128)?, inner, router, activation)
    };
    let bias = config.or("attention_bias", true)?;
    let attention = Attention { qkv_bias: bias, o_bias: bias, sinks: true, ..attention };
    let window = window(config, Some(128))?;
    let layers = num_layers(config, 36)?;
    let sliding = sliding_layers(config, layers)?;
    for index in 0..layers {
        let slides = sliding.as_ref().map_or(index.is_multiple_of(2), |slides| slides[index]);
        let sliding_window = window.filter(|_| slides);
        let mixer = Mixer::Attention(Attention { sliding_window, ..attention.clone() });
        spec.layers.push(LayerSpec::pre_norm(mixer, FeedForward::Moe(moe.clone())));
    }
    Ok(spec)
}
