//! Mixtral.

use moexperts_core::RouterSpec;

use super::{
    family::Family,
    read::{Defaults, activation, decoder, dimension, num_experts, num_layers, window},
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

fn describe(config: &Config) -> Result<DecoderSpec> {
    let (mut spec, attention) = decoder(config, &Defaults::new(1e6, 1e-5))?;
    let experts = num_experts(config, 8)?;
    let inner = dimension(config, "intermediate_size")?;
    let router = RouterSpec::softmax(config.or("num_experts_per_tok", 2)?, true);
    let moe = Moe { names: NAMES, ..Moe::new(experts, inner, router, activation(config)?) };
    let attention = Attention { sliding_window: window(config)?, ..attention };
    let layer = LayerSpec::pre_norm(Mixer::Attention(attention), FeedForward::Moe(moe));
    spec.layers = vec![layer; num_layers(config)?];
    Ok(spec)
}
