//! MiniMax-M2.

use moexperts_core::RouterSpec;

use super::{
    family::Family,
    read::{Defaults, ExpertsKeys, activation, decoder, dimension, num_experts, num_layers},
};
use crate::{
    blocks::{
        Attention, ExpertNames, ExpertTensors, FeedForward, FusedExperts, LayerSpec, Mixer, Moe,
        MoeNames, QkNorm,
    },
    config::Config,
    error::Result,
    model::DecoderSpec,
};

pub(super) const FAMILY: Family = Family::causal_lm("minimax_m2", describe);

/// As the published checkpoints have them, and as transformers 5 saves them.
const NAMES: &[MoeNames] = &[
    MoeNames {
        module: "block_sparse_moe",
        pick_bias: "e_score_correction_bias",
        experts: ExpertTensors::Either(ExpertNames::W1_W3_W2, FusedExperts::TRANSFORMERS),
        ..MoeNames::LLAMA
    },
    MoeNames { pick_bias: "e_score_correction_bias", ..MoeNames::LLAMA },
];

/// Width of a head where the config does not say it.
const HEAD_DIM: usize = 128;

const DEFAULTS: Defaults = Defaults {
    vocab_size: 200_064,
    hidden_size: 3072,
    heads: 48,
    kv_heads: Some(8),
    head_dim: Some(HEAD_DIM),
    max_position_embeddings: 196_608,
    rope_theta: 5e6,
    ..Defaults::COMMON
};

fn describe(config: &Config) -> Result<DecoderSpec> {
    let head_dim = config.or("head_dim", HEAD_DIM)?;
    let turned: Option<usize> = config.optional("rotary_dim")?;
    let (mut spec, attention) = decoder(
        config,
        &Defaults {
            partial_rotary_factor: Some(
                turned.map_or(1.0, |turned| turned as f64 / head_dim as f64),
            ),
            ..DEFAULTS
        },
    )?;
    let inner = dimension(config, "intermediate_size", 1536)?;
    let router = RouterSpec::sigmoid(config.or("num_experts_per_tok", 8)?).with_normalise(0.0);
    let moe = Moe {
        pick_bias: true,
        names: NAMES,
        ..Moe::new(
            num_experts(config, ExpertsKeys::LOCAL_LAST, 256)?,
            inner,
            router,
            activation(config)?,
        )
    };
    let attention = Attention { qk_norm: QkNorm::Whole, ..attention };
    let layer = LayerSpec::pre_norm(Mixer::Attention(attention), FeedForward::Moe(moe));
    spec.layers = vec![layer; num_layers(config, 62)?];
    Ok(spec)
}
