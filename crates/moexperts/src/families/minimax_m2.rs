//! MiniMax-M2.

use moexperts_core::RouterSpec;

use super::{
    family::Family,
    read::{Defaults, activation, decoder, dimension, num_experts, num_layers},
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

fn describe(config: &Config) -> Result<DecoderSpec> {
    let head_dim = config.or("head_dim", HEAD_DIM)?;
    let turned: Option<usize> = config.optional("rotary_dim")?;
    let (mut spec, attention) = decoder(
        config,
        &Defaults {
            partial_rotary_factor: turned.map_or(1.0, |turned| turned as f64 / head_dim as f64),
            head_dim: Some(HEAD_DIM),
            ..Defaults::new(5e6, 1e-6)
        },
    )?;
    let inner = dimension(config, "intermediate_size")?;
    let router = RouterSpec::sigmoid(config.or("num_experts_per_tok", 8)?).with_normalise(0.0);
    let moe = Moe {
        pick_bias: true,
        names: NAMES,
        ..Moe::new(num_experts(config, 256)?, inner, router, activation(config)?)
    };
    let attention = Attention { qk_norm: QkNorm::Whole, ..attention };
    let layer = LayerSpec::pre_norm(Mixer::Attention(attention), FeedForward::Moe(moe));
    spec.layers = vec![layer; num_layers(config)?];
    Ok(spec)
}
