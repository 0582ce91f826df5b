//! What families read alike.

use std::collections::BTreeSet;

use moexperts_core::Activation;

use crate::{
    blocks::{Attention, Rope, RopeDefaults, rope_parameters},
    config::Config,
    error::{Error, Result},
    model::DecoderSpec,
};

/// No dimension of a model is larger: products of two stay far from overflow.
pub(super) const MAX_DIMENSION: usize = 1 << 28;

/// No model has more layers. Each layer of a description takes memory before any weight is found.
const MAX_LAYERS: usize = 1 << 14;

/// Reads a dimension: a positive number of a size a model can have.
pub(super) fn dimension(config: &Config, key: &str, default: usize) -> Result<usize> {
    bounded(config, key, MAX_DIMENSION, not_null(config, key, default)?)
}

/// A number that has a default and may not be `null`, as in transformers.
fn not_null(config: &Config, key: &str, default: usize) -> Result<usize> {
    match config.is_null(key) {
        true => Err(config.refused(key, "a number, or no such key")),
        false => config.or(key, default),
    }
}

/// The keys of the number of experts; where both are there, the first is obeyed.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExpertsKeys([&'static str; 2]);

impl ExpertsKeys {
    /// As classes have it whose own key is `num_experts`.
    pub(super) const LOCAL_FIRST: Self = Self(["num_local_experts", "num_experts"]);
    /// As classes have it whose own key is `num_local_experts`.
    pub(super) const LOCAL_LAST: Self = Self(["num_experts", "num_local_experts"]);
}

/// Reads the number of experts, under either of its names.
pub(super) fn num_experts(config: &Config, keys: ExpertsKeys, default: usize) -> Result<usize> {
    let ExpertsKeys([first, second]) = keys;
    let values: [Option<usize>; 2] = [config.optional(first)?, config.optional(second)?];
    match values {
        [Some(obeyed), Some(other)] if obeyed != other => config.warn(format_args!(
            "key `{}` is {obeyed} and `{}` is {other}: `{0}` is obeyed",
            config.path(first),
            config.path(second)
        )),
        [None, Some(_)] => return dimension(config, second, default),
        _ => {}
    }
    dimension(config, first, default)
}

/// Reads `num_hidden_layers`.
pub(super) fn num_layers(config: &Config, default: usize) -> Result<usize> {
    layers(config, "num_hidden_layers", default)
}

/// Reads a number of layers.
pub(super) fn layers(config: &Config, key: &str, default: usize) -> Result<usize> {
    bounded(config, key, MAX_LAYERS, not_null(config, key, default)?)
}

fn bounded(config: &Config, key: &str, limit: usize, value: usize) -> Result<usize> {
    if (1..=limit).contains(&value) {
        Ok(value)
    } else {
        Err(config.refused(key, &format!("1 to {limit}")))
    }
}

/// What families differ in where a key is absent: the values of transformers' class of the family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) heads: usize,
    /// Key/value heads; as many as heads if `None`.
    pub(super) kv_heads: Option<usize>,
    /// Width of a head; `hidden_size` divided by the heads if `None`.
    pub(super) head_dim: Option<usize>,
    pub(super) max_position_embeddings: usize,
    pub(super) rms_norm_eps: f32,
    pub(super) rope_theta: f64,
    /// The part of a head that the rotary embedding turns; `None` where it turns whole heads
    /// whatever the config says.
    pub(super) partial_rotary_factor: Option<f64>,
    /// `rope_parameters`, as JSON.
    pub(super) rope_parameters: Option<&'static str>,
    /// Whether the class has `layer_types`.
    pub(super) layer_types: bool,
}

impl Defaults {
    /// Where most families agree.
    pub(super) const COMMON: Self = Self {
        vocab_size: 151_936,
        hidden_size: 2048,
        heads: 16,
        kv_heads: None,
        head_dim: None,
        max_position_embeddings: 32_768,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        partial_rotary_factor: None,
        rope_parameters: None,
        layer_types: false,
    };
}

/// Reads what every family shares: a decoder whose layers are left to the family, and the heads of
/// its attention.
pub(super) fn decoder(config: &Config, defaults: &Defaults) -> Result<(DecoderSpec, Attention)> {
    let hidden_size = dimension(config, "hidden_size", defaults.hidden_size)?;
    let attention = attention(config, hidden_size, defaults)?;
    if defaults.layer_types {
        refuse_ropes_by_layer(config)?;
    }
    let max = "max_position_embeddings";
    let rope = RopeDefaults {
        rope_theta: defaults.rope_theta,
        max_position_embeddings: defaults.max_position_embeddings,
        partial_rotary_factor: defaults.partial_rotary_factor,
        parameters: defaults.rope_parameters,
    };
    let decoder = DecoderSpec {
        model_type: config.or("model_type", String::new())?,
        backbone: "",
        module: "model",
        vocab_size: dimension(config, "vocab_size", defaults.vocab_size)?,
        hidden_size,
        rms_norm_eps: rms_norm_eps(config, defaults.rms_norm_eps)?,
        max_position_embeddings: dimension(config, max, defaults.max_position_embeddings)?,
        tie_word_embeddings: config.or("tie_word_embeddings", false)?,
        embedding_multiplier: 1.0,
        logits_scaling: 1.0,
        ropes: vec![Rope::read(config, attention.head_dim, &rope)?],
        layers: Vec::new(),
    };
    Ok((decoder, attention))
}

/// Refuses a rotary embedding for each kind of layer, which these classes cannot have.
fn refuse_ropes_by_layer(config: &Config) -> Result<()> {
    let Some(parameters) = rope_parameters(config)? else { return Ok(()) };
    let key = |key: &&&str| parameters.keys().contains_key(**key);
    match ["full_attention", "sliding_attention"].iter().find(key) {
        Some(key) => Err(parameters.refused(key, "one rotary embedding for all layers")),
        None => Ok(()),
    }
}

/// Reads the heads of an attention.
fn attention(config: &Config, hidden_size: usize, defaults: &Defaults) -> Result<Attention> {
    let heads = dimension(config, "num_attention_heads", defaults.heads)?;
    let kv_heads = match defaults.kv_heads {
        None if config.is_null("num_key_value_heads") => heads,
        default => dimension(config, "num_key_value_heads", default.unwrap_or(heads))?,
    };
    let head_dim = match defaults.head_dim {
        None if !config.contains("head_dim") => hidden_size / heads,
        default => dimension(config, "head_dim", default.unwrap_or(hidden_size / heads))?,
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
        "full_attention" | "attention" => Ok(false),
        _ => Err(refused()),
    });
    slides.collect::<Result<_>>().map(Some)
}

/// Reads a window; 0 and `null` mean none.
pub(super) fn window(config: &Config, default: Option<usize>) -> Result<Option<usize>> {
    let key = "sliding_window";
    let default = default.filter(|_| !config.is_null(key));
    let window = config.optional(key)?.or(default);
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
