//! Qwen1.5-MoE and Qwen2-MoE.

use moexperts_core::{Orientation, RouterSpec};

use super::{Defaults, Family, activation, decoder, dimension, is_sparse, num_experts, num_layers};
use crate::{
    config::Config,
    error::Result,
    model::{DecoderSpec, ExpertNames, LayerSpec, MlpSpec, MoeSpec, QkNorm, SharedExpertSpec},
};

pub(super) const FAMILY: Family = Family::causal_lm("qwen2_moe", describe);

fn describe(config: &Config) -> Result<DecoderSpec> {
    let mut spec = decoder(config, &Defaults { rope_theta: 1e4, rms_norm_eps: 1e-6 })?;
    let activation = activation(config)?;
    let moe = MoeSpec {
        num_experts: num_experts(config, 60)?,
        moe_intermediate_size: dimension(config, "moe_intermediate_size")?,
        router: RouterSpec {
            top_k: config.or("num_experts_per_tok", 4)?,
            norm_topk_prob: config.or("norm_topk_prob", false)?,
        },
        activation,
        shared_expert: Some(SharedExpertSpec {
            intermediate_size: dimension(config, "shared_expert_intermediate_size")?,
        }),
        names: ExpertNames::MLP,
        fused: Orientation::OutIn,
    };
    let intermediate_size = dimension(config, "intermediate_size")?;
    let qkv_bias = config.or("qkv_bias", true)?;
    for index in 0..num_layers(config)? {
        let mlp = if is_sparse(config, index)? {
            MlpSpec::Moe(moe.clone())
        } else {
            MlpSpec::Dense { intermediate_size, activation }
        };
        spec.layers.push(LayerSpec {
            qkv_bias,
            o_bias: false,
            qk_norm: QkNorm::None,
            clip_qkv: None,
            sliding_window: sliding_window(config, index)?,
            mlp,
        });
    }
    Ok(spec)
}

/// `layer_types` where it is given; else every second layer below `max_window_layers` slides.
fn sliding_window(config: &Config, index: usize) -> Result<Option<usize>> {
    let slides = match config.optional::<Vec<String>>("layer_types")? {
        Some(types) => types.get(index).is_some_and(|kind| kind == "sliding_attention"),
        None => index.is_multiple_of(2) && index < config.or("max_window_layers", 28)?,
    };
    if !slides || !config.or("use_sliding_window", false)? {
        return Ok(None);
    }
    let window: Option<usize> = config.optional("sliding_window")?;
    Ok(window.filter(|&window| window > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_layer_types_the_same_layers_slide_as_transformers_writes() {
        let path = "../../testdata/qwen2_moe_window/config.json";
        let text = std::fs::read_to_string(path).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let windows = |json: &serde_json::Value| -> Vec<Option<usize>> {
            let config = Config::parse("config.json", &json.to_string()).unwrap();
            let layers = describe(&config).unwrap().layers;
            layers.iter().map(|layer| layer.sliding_window).collect()
        };
        let written = windows(&json);
        assert_eq!(written, [Some(5), None, Some(5), None, None]);
        json["layer_types"] = serde_json::Value::Null;
        assert_eq!(windows(&json), written);
    }
}
