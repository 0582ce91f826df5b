//! Mixtral.

use moexperts_core::RouterSpec;

use super::{
    family::Family,
    read::{
        Defaults, ExpertsKeys, activation, decoder, dimension, num_experts, num_layers, window,
    },
};
use crate::{
    blocks::{
        Attention, ExpertNames, ExpertTensors, FeedForward, FusedExperts, LayerSpec, Mixer, Moe,
        MoeNames,
    },
    config::Config,
    error::Result,
    model::DecoderSpec,
};

pub(super) const FAMILY: Family = Family::causal_lm("mixtral", describe);

/// The published checkpoints say w1, w3, w2; fused ones follow the other families.
const NAMES: &[MoeNames] = &[
    MoeNames { module: "block_sparse_moe", experts: EXPERTS, ..MoeNames::LLAMA },
    MoeNames { experts: EXPERTS, ..MoeNames::LLAMA },
];

const EXPERTS: ExpertTensors =
    ExpertTensors::Either(ExpertNames::W1_W3_W2, FusedExperts::TRANSFORMERS);

const DEFAULTS: Defaults = Defaults {
    vocab_size: 32_000,
    hidden_size: 4096,
    heads: 32,
    kv_heads: Some(8),
    max_position_embeddings: 131_072,
    rms_norm_eps: 1e-5,
    rope_theta: 1e6,
    ..Defaults::COMMON
};

fn describe(config: &Config) -> Result<DecoderSpec> {
    let (mut spec, attention) = decoder(config, &DEFAULTS)?;
    let experts = num_experts(config, ExpertsKeys::LOCAL_LAST, 8)?;
    let inner = dimension(config, "intermediate_size", 14_336)?;
    let router = RouterSpec::softmax(config.or("num_experts_per_tok", 2)?, true);
    let moe = Moe { names: NAMES, ..Moe::new(experts, inner, router, activation(config)?) };
    let attention = Attention { sliding_window: window(config, None)?, ..attention };
    let layer = LayerSpec::pre_norm(Mixer::Attention(attention), FeedForward::Moe(moe));
    spec.layers = vec![layer; num_layers(config, 32)?];
    Ok(spec)
}
