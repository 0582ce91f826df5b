//! GraniteMoe.

use moexperts_core::RouterSpec;

use super::{
    family::Family,
    read::{Defaults, activation, decoder, dimension, factor, num_layers},
};
use crate::{
    blocks::{
        Attention, ExpertTensors, FeedForward, FusedExperts, LayerSpec, Mixer, Moe, MoeNames,
    },
    config::Config,
    error::Result,
    model::DecoderSpec,
};

pub(super) const FAMILY: Family = Family::causal_lm("granitemoe", describe);

/// As the published checkpoints have them, and as transformers 5 saves them.
const NAMES: &[MoeNames] = &[
    MoeNames {
        module: "block_sparse_moe",
        router: "router.layer",
        experts: ExpertTensors::Fused(FusedExperts {
            gate_up_proj: "input_linear.weight",
            down_proj: "output_linear.weight",
            ..FusedExperts::TRANSFORMERS
        }),
        ..MoeNames::LLAMA
    },
    MoeNames {
        module: "block_sparse_moe",
        router: "router",
        experts: ExpertTensors::Fused(FusedExperts::TRANSFORMERS),
        ..MoeNames::LLAMA
    },
];

const DEFAULTS: Defaults = Defaults {
    vocab_size: 32_000,
    hidden_size: 4096,
    heads: 32,
    max_position_embeddings: 2048,
    ..Defaults::COMMON
};

fn describe(config: &Config) -> Result<DecoderSpec> {
    let (mut spec, attention) = decoder(config, &DEFAULTS)?;
    spec.embedding_multiplier = factor(config, "embedding_multiplier", 1.0)?;
    spec.logits_scaling = config.or("logits_scaling", 1.0)?;
    if !spec.logits_scaling.is_normal() {
        return Err(config.refused("logits_scaling", "a number other than 0"));
    }
    let inner = dimension(config, "intermediate_size", 11_008)?;
    let router = RouterSpec::softmax(config.or("num_experts_per_tok", 2)?, true);
    let moe = Moe {
        names: NAMES,
        ..Moe::new(dimension(config, "num_local_experts", 8)?, inner, router, activation(config)?)
    };
    let bias = config.or("attention_bias", false)?;
    let attention = Attention {
        qkv_bias: bias,
        o_bias: bias,
        scale: factor(config, "attention_multiplier", 1.0)?,
        ..attention
    };
    let layer = LayerSpec {
        residual_multiplier: factor(config, "residual_multiplier", 1.0)?,
        ..LayerSpec::pre_norm(Mixer::Attention(attention), FeedForward::Moe(moe))
    };
    spec.layers = vec![layer; num_layers(config, 32)?];
    Ok(spec)
}
