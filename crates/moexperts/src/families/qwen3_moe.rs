//! Qwen3-MoE.

use moexperts_core::{Orientation, RouterSpec};

use super::{Defaults, Family, activation, decoder, dimension, is_sparse, num_experts, num_layers};
use crate::{
    config::Config,
    error::Result,
    model::{DecoderSpec, ExpertNames, LayerSpec, MlpSpec, MoeSpec, QkNorm},
};

pub(super) const FAMILY: Family = Family::causal_lm("qwen3_moe", describe);

fn describe(config: &Config) -> Result<DecoderSpec> {
    let mut spec = decoder(config, &Defaults { rope_theta: 1e4, rms_norm_eps: 1e-6 })?;
    let moe = MoeSpec {
        num_experts: num_experts(config, 128)?,
        moe_intermediate_size: dimension(config, "moe_intermediate_size")?,
        router: RouterSpec {
            top_k: config.or("num_experts_per_tok", 8)?,
            norm_topk_prob: config.or("norm_topk_prob", false)?,
        },
        activation: activation(config)?,
        shared_expert: None,
        names: ExpertNames::MLP,
        fused: Orientation::OutIn,
    };
    let window: Option<usize> = match config.or("use_sliding_window", false)? {
        true => config.optional("sliding_window")?,
        false => None,
    };
    spec.layers = layers(config, &moe, window)?;
    Ok(spec)
}

/// The blocks of the decoder, with `moe` where a layer has experts.
pub(super) fn layers(
    config: &Config,
    moe: &MoeSpec,
    window: Option<usize>,
) -> Result<Vec<LayerSpec>> {
    let intermediate_size = dimension(config, "intermediate_size")?;
    let attention_bias = config.or("attention_bias", false)?;
    let layer = |index| -> Result<LayerSpec> {
        let mlp = if is_sparse(config, index)? {
            MlpSpec::Moe(moe.clone())
        } else {
            MlpSpec::Dense { intermediate_size, activation: moe.activation }
        };
        Ok(LayerSpec {
            qkv_bias: attention_bias,
            o_bias: attention_bias,
            qk_norm: QkNorm::PerHead,
            clip_qkv: None,
            sliding_window: window.filter(|&window| window > 0),
            mlp,
        })
    };
    (0..num_layers(config)?).map(layer).collect()
}
