//! What families read alike.

use std::collections::BTreeSet;

use moexperts_core::Activation;

use crate::{
    blocks::{Attention, Rope},
    config::Config,
    error::{Error, Result},
    model::DecoderSpec,
};

/// No dimension of a model is larger: products of two stay far from overflow.
pub(super) const MAX_DIMENSION: usize = 1 << 28;

/// No model has more layers. Each layer of a description takes memory before any weight is found.
const MAX_LAYERS: usize = 1 << 14;

/// Reads a dimension: a positive number of a size a model can have.
pub(super) fn dimension(config: &Config, key: &str) -> Result<usize> {
    bounded(config, key, MAX_DIMENSION, config.required(key)?)
}

/// Reads a dimension that may be absent.
pub(super) fn dimension_or(config: &Config, key: &str, default: usize) -> Result<usize> {
    bounded(config, key, MAX_DIMENSION, config.or(key, default)?)
}

/// Reads the number of experts, under either of its names.
pub(super) fn num_experts(config: &Config, default: usize) -> Result<usize> {
    let local = "num_local_experts";
    let key = if config.contains(local) { local } else { "num_experts" };
    dimension_or(config, key, default)
}

/// Reads `num_hidden_layers`.
pub(super) fn num_layers(config: &Config) -> Result<usize> {
    layers(config, "num_hidden_layers")
}

/// Reads a number of layers.
pub(super) fn layers(config: &Config, key: &str) -> Result<usize> {
    bounded(config, key, MAX_LAYERS, config.required(key)?)
}

fn bounded(config: &Config, key: &str, limit: usize, value: usize) -> Result<usize> {
    if (1..=limit).contains(&value) {
        Ok(value)
    } else {
        Err(config.refused(key, &format!("1 to {limit}")))
    }
}

/// What families differ in where a key is absent.
pub(super) struct Defaults {
    pub(super) rope_theta: f64,
    pub(super) rms_norm_eps: f32,
    /// The part of a head that the rotary embedding turns.
    pub(super) partial_rotary_factor: f64,
    /// Width of a head; `hidden_size` divided by the heads if `None`.
    pub(super) head_dim: Option<usize>,
}

impl Defaults {
    /// Rotary embeddings over whole heads, which share the hidden size.
    pub(super) const fn new(rope_theta: f64, rms_norm_eps: f32) -> Self {
        Self { rope_theta, rms_norm_eps, partial_rotary_factor: 1.0, head_dim: None }
    }
}

/// Reads what every family shares: a decoder whose layers are left to the family, and the heads of
/// its attention.
pub(super) fn decoder(config: &Config, defaults: &Defaults) -> Result<(DecoderSpec, Attention)> {
    let hidden_size = dimension(config, "hidden_size")?;
    let attention = attention(config, hidden_size, defaults.head_dim)?;
    let decoder = DecoderSpec {
        model_type: config.required("model_type")?,
        backbone: "",
        module: "model",
        vocab_size: dimension(config, "vocab_size")?,
        hidden_size,
        rms_norm_eps: rms_norm_eps(config, defaults.rms_norm_eps)?,
        max_position_embeddings: dimension(config, "max_position_embeddings")?,
        tie_word_embeddings: config.or("tie_word_embeddings", false)?,
        embedding_multiplier: 1.0,
        logits_scaling: 1.0,
        ropes: vec![Rope::read(
            config,
            attention.head_dim,
            defaults.partial_rotary_factor,
            defaults.rope_theta,
        )?],
        layers: Vec::new(),
    };
    Ok((decoder, attention))
}

/// Reads the heads of an attention.
fn attention(
    config: &Config,
    hidden_size: usize,
    default_head_dim: Option<usize>,
) -> Result<Attention> {
    let heads = dimension(config, "num_attention_heads")?;
    let kv_heads = dimension_or(config, "num_key_value_heads", heads)?;
    let head_dim = match config.contains("head_dim") {
        true => dimension(config, "head_dim")?,
        false => default_head_dim.unwrap_or(hidden_size / heads),
    };
    if head_dim == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(Error::Config {
            file: config.file().to_owned(),
            problem: format!(
                "{heads} heads of {head_dim} cannot share {kv_heads} key/value heads, expected \
                 num_attention_heads to be a multiple of num_key_value_heads"
            ),
        });
    }
    Ok(Attention::new(heads, kv_heads, head_dim))
}

/// Which layers slide, as `layer_types` says, if it is there.
pub(super) fn sliding_layers(config: &Config, layers: usize) -> Result<Option<Vec<bool>>> {
    let key = "layer_types";
    let Some(kinds) = config.optional::<Vec<String>>(key)? else { return Ok(None) };
    let refused = || {
        let expected =
            format!("`full_attention` or `sliding_attention` for each of the {layers} layers");
        config.refused(key, &expected)
    };
    if kinds.len() != layers {
        return Err(refused());
    }
    let slides = kinds.iter().map(|kind| match kind.as_str() {
        "sliding_attention" => Ok(true),
        "full_attention" => Ok(false),
        _ => Err(refused()),
    });
    slides.collect::<Result<_>>().map(Some)
}

/// Reads a window; 0 means none.
pub(super) fn window(config: &Config) -> Result<Option<usize>> {
    let key = "sliding_window";
    let window: Option<usize> = config.optional(key)?;
    let window = window.filter(|&window| window > 0);
    window.map(|window| bounded(config, key, MAX_DIMENSION, window)).transpose()
}

/// Reads `hidden_act`.
pub(super) fn activation(config: &Config) -> Result<Activation> {
    activation_or(config, "silu")
}

/// Reads `hidden_act` where it may be absent.
pub(super) fn activation_or(config: &Config, default: &str) -> Result<Activation> {
    match config.or("hidden_act", default.to_owned())?.as_str() {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "relu2" => Ok(Activation::Relu2),
        other => Err(Error::Config {
            file: config.file().to_owned(),
            problem: format!(
                "hidden_act `{other}` is not known, \
                 expected one of `silu`, `gelu`, `gelu_pytorch_tanh`, `relu2`"
            ),
        }),
    }
}

/// Which layers have experts: every `decoder_sparse_step`-th one that is not listed in
/// `mlp_only_layers`.
pub(super) struct SparseLayers {
    step: usize,
    dense: BTreeSet<usize>,
}

impl SparseLayers {
    pub(super) fn read(config: &Config) -> Result<Self> {
        Ok(Self {
            step: config.or("decoder_sparse_step", 1)?,
            dense: config.or("mlp_only_layers", BTreeSet::new())?,
        })
    }

    /// Whether layer `index` has experts.
    pub(super) fn contains(&self, index: usize) -> bool {
        let is_step = self.step > 0 && (index + 1).is_multiple_of(self.step);
        is_step && !self.dense.contains(&index)
    }
}

/// Reads a number that activations are multiplied with.
pub(super) fn factor(config: &Config, key: &str, default: f32) -> Result<f32> {
    let value: f32 = config.or(key, default)?;
    if value.is_finite() { Ok(value) } else { Err(config.refused(key, "a finite f32")) }
}

/// Reads a bound on magnitudes, if it is there.
pub(super) fn limit(config: &Config, key: &str) -> Result<Option<f32>> {
    match config.optional::<f32>(key)? {
        Some(limit) if !(limit.is_finite() && limit > 0.0) => {
            Err(config.refused(key, "a positive number"))
        }
        limit => Ok(limit),
    }
}

fn rms_norm_eps(config: &Config, default: f32) -> Result<f32> {
    let key = "rms_norm_eps";
    let eps: f32 = config.or(key, default)?;
    if eps.is_finite() && eps >= 0.0 {
        return Ok(eps);
    }
    Err(config.refused(key, "a small positive number"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::families::describe;

    /// What is said of a case's config with one key changed.
    fn problem(case: &str, key: &str, value: serde_json::Value) -> String {
        let path = format!("../../testdata/{case}/config.json");
        let mut json: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        json[key] = value;
        let config = Config::parse("config.json", &json.to_string()).unwrap();
        describe(&config).unwrap_err().to_string()
    }

    #[test]
    fn layer_types_name_a_known_kind_for_each_layer() {
        let expected = "`full_attention` or `sliding_attention` for each of the 5 layers";
        for (types, shown) in [
            (json!(["full_attention"]), r#"["full_attention"]"#),
            (json!(vec!["full"; 5]), r#"["full","full","full","full","full"]"#),
            (json!([]), "[]"),
        ] {
            assert_eq!(
                problem("qwen2_moe_window", "layer_types", types),
                format!("config.json: key `layer_types` is {shown}, expected {expected}")
            );
        }
    }

    #[test]
    fn factors_are_finite_and_bounds_positive() {
        for (case, key, value, said) in [
            ("granitemoe", "attention_multiplier", json!(1e300), "1e+300, expected a finite f32"),
            ("granitemoe", "residual_multiplier", json!(-1e39), "-1e+39, expected a finite f32"),
            ("olmoe", "clip_qkv", json!(-8.0), "-8.0, expected a positive number"),
            ("gpt_oss", "swiglu_limit", json!(0), "0, expected a positive number"),
            ("mixtral", "rms_norm_eps", json!(-1), "-1, expected a small positive number"),
            ("mixtral", "sliding_window", json!(1 << 29), "536870912, expected 1 to 268435456"),
        ] {
            assert_eq!(problem(case, key, value), format!("config.json: key `{key}` is {said}"));
        }
    }

    #[test]
    fn a_tower_is_of_a_size_that_can_be() {
        let huge = |key: &str| {
            let path = "../../testdata/qwen3_vl_moe/config.json";
            let json: serde_json::Value =
                serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
            let mut vision = json["vision_config"].clone();
            vision[key] = json!(1 << 28);
            problem("qwen3_vl_moe", "vision_config", vision)
        };
        assert_eq!(
            huge("patch_size"),
            "config.json: key `vision_config.patch_size` is 268435456, expected a patch of at most \
             268435456 values"
        );
        assert_eq!(
            huge("spatial_merge_size"),
            "config.json: key `vision_config.spatial_merge_size` is 268435456, expected merged \
             patches of at most 268435456 values"
        );
    }
}
