//! Mixtral.

use moexperts_core::{Orientation, RouterSpec};

use super::{Defaults, Family, activation, decoder, dimension, num_experts, num_layers};
use crate::{
    config::Config,
    error::Result,
    model::{DecoderSpec, ExpertNames, LayerSpec, MlpSpec, MoeSpec, QkNorm},
};

pub(super) const FAMILY: Family = Family::causal_lm("mixtral", describe);

fn describe(config: &Config) -> Result<DecoderSpec> {
    let mut spec = decoder(config, &Defaults { rope_theta: 1e6, rms_norm_eps: 1e-5 })?;
    let moe = MoeSpec {
        num_experts: num_experts(config, 8)?,
        moe_intermediate_size: dimension(config, "intermediate_size")?,
        router: RouterSpec { top_k: config.or("num_experts_per_tok", 2)?, norm_topk_prob: true },
        activation: activation(config)?,
        shared_expert: None,
        // The published checkpoints say w1, w3, w2; fused ones follow the other families.
        names: ExpertNames {
            modules: &["block_sparse_moe", "mlp"],
            gate_proj: "w1",
            up_proj: "w3",
            down_proj: "w2",
        },
        fused: Orientation::OutIn,
    };
    let window: Option<usize> = config.optional("sliding_window")?;
    let layer = LayerSpec {
        qkv_bias: false,
        o_bias: false,
        qk_norm: QkNorm::None,
        clip_qkv: None,
        sliding_window: window.filter(|&window| window > 0),
        mlp: MlpSpec::Moe(moe),
    };
    spec.layers = vec![layer; num_layers(config)?];
    Ok(spec)
}
