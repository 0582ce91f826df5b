//! OLMoE.

use moexperts_core::{Orientation, RouterSpec};

use super::{Defaults, Family, activation, decoder, dimension, num_experts, num_layers};
use crate::{
    config::Config,
    error::Result,
    model::{DecoderSpec, ExpertNames, LayerSpec, MlpSpec, MoeSpec, QkNorm},
};

pub(super) const FAMILY: Family = Family::causal_lm("olmoe", describe);

fn describe(config: &Config) -> Result<DecoderSpec> {
    let mut spec = decoder(config, &Defaults { rope_theta: 1e4, rms_norm_eps: 1e-5 })?;
    let moe = MoeSpec {
        num_experts: num_experts(config, 64)?,
        moe_intermediate_size: dimension(config, "intermediate_size")?,
        router: RouterSpec {
            top_k: config.or("num_experts_per_tok", 8)?,
            norm_topk_prob: config.or("norm_topk_prob", false)?,
        },
        activation: activation(config)?,
        shared_expert: None,
        names: ExpertNames::MLP,
        fused: Orientation::OutIn,
    };
    let attention_bias = config.or("attention_bias", false)?;
    let layer = LayerSpec {
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        qk_norm: QkNorm::Whole,
        clip_qkv: config.optional("clip_qkv")?,
        sliding_window: None,
        mlp: MlpSpec::Moe(moe),
    };
    spec.layers = vec![layer; num_layers(config)?];
    Ok(spec)
}
