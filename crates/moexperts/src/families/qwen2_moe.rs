//! Qwen1.5-MoE and Qwen2-MoE.

use moexperts_core::RouterSpec;

use super::{
    family::Family,
    read::{
        Defaults, SparseLayers, activation, decoder, dimension, num_layers, sliding_layers, window,
    },
};
use crate::{
    blocks::{Attention, Dense, DenseNames, FeedForward, LayerSpec, Mixer, Moe, SharedExpert},
    config::Config,
    error::Result,
    model::DecoderSpec,
};

pub(super) const FAMILY: Family = Family::causal_lm("qwen2_moe", describe);

const DEFAULTS: Defaults = Defaults { kv_heads: Some(16), layer_types: true, ..Defaults::COMMON };

fn describe(config: &Config) -> Result<DecoderSpec> {
    let (mut spec, attention) = decoder(config, &DEFAULTS)?;
    let activation = activation(config)?;
    let experts = dimension(config, "num_experts", 60)?;
    let inner = dimension(config, "moe_intermediate_size", 1408)?;
    let top_k = config.or("num_experts_per_tok", 4)?;
    let router = RouterSpec::softmax(top_k, config.or("norm_topk_prob", false)?);
    let shared = dimension(config, "shared_expert_intermediate_size", 5632)?;
    let shared = Dense { names: DenseNames::of("shared_expert"), ..Dense::new(shared, activation) };
    let moe = Moe {
        shared_expert: Some(SharedExpert { mlp: shared, gate: Some("shared_expert_gate") }),
        ..Moe::new(experts, inner, router, activation)
    };
    let dense = Dense::new(dimension(config, "intermediate_size", 5632)?, activation);
    let attention = Attention { qkv_bias: config.or("qkv_bias", true)?, ..attention };
    let layers = num_layers(config, 24)?;
    let (sparse, windows) = (SparseLayers::read(config)?, sliding_windows(config, layers)?);
    for (index, sliding_window) in windows.into_iter().enumerate() {
        let feed_forward = match sparse.contains(index) {
            true => FeedForward::Moe(moe.clone()),
            false => FeedForward::Dense(dense),
        };
        let mixer = Mixer::Attention(Attention { sliding_window, ..attention.clone() });
        spec.layers.push(LayerSpec::pre_norm(mixer, feed_forward));
    }
    Ok(spec)
}

/// The window of each layer: `layer_types` where it is given, else every second layer below
/// `max_window_layers` slides.
fn sliding_windows(config: &Config, layers: usize) -> Result<Vec<Option<usize>>> {
    let below = config.or("max_window_layers", 28)?;
    let slides = match sliding_layers(config, layers)? {
        Some(slides) => slides,
        None => (0..layers).map(|index| index.is_multiple_of(2) && index < below).collect(),
    };
    let is_used = config.or("use_sliding_window", false)?;
    let window = window(config, Some(4096))?.filter(|_| is_used);
    Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
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
            let window = |layer: &LayerSpec| match &layer.mixer {
                Mixer::Attention(attention) => attention.sliding_window,
            };
            layers.iter().map(window).collect()
        };
        let written = windows(&json);
        assert_eq!(written, [Some(5), None, Some(5), None, None]);
        json["layer_types"] = serde_json::Value::Null;
        assert_eq!(windows(&json), written);
    }
}
