//! Model families: a file each, saying what a `config.json` means and what the weights are called.

mod gpt_oss;
mod granitemoe;
mod minimax_m2;
mod mixtral;
mod olmoe;
mod qwen2_moe;
mod qwen3_moe;
mod qwen3_vl_moe;

use moexperts_core::{Activation, checks};

use crate::{
    blocks::{Attention, Rope},
    config::Config,
    error::{Error, Result},
    model::{DecoderSpec, ModelSpec},
};

/// A family: the `model_type` of its configs and how to read them.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    describe: Describe,
}

#[derive(Debug, Clone, Copy)]
enum Describe {
    CausalLm(fn(&Config) -> Result<DecoderSpec>),
    ImageTextToText(fn(&Config) -> Result<ModelSpec>),
}

/// What a model's input and output are; each has a loader of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Text to text: `AutoModelForCausalLm`.
    CausalLm,
    /// Images and text to text: `AutoModelForImageTextToText`.
    ImageTextToText,
}

impl Task {
    /// What loads models of this task.
    pub const fn loader(self) -> &'static str {
        match self {
            Self::CausalLm => "AutoModelForCausalLm",
            Self::ImageTextToText => "AutoModelForImageTextToText",
        }
    }
}

/// Every family, in alphabetical order.
pub const FAMILIES: [Family; 8] = [
    gpt_oss::FAMILY,
    granitemoe::FAMILY,
    minimax_m2::FAMILY,
    mixtral::FAMILY,
    olmoe::FAMILY,
    qwen2_moe::FAMILY,
    qwen3_moe::FAMILY,
    qwen3_vl_moe::FAMILY,
];

impl Family {
    const fn causal_lm(
        model_type: &'static str,
        describe: fn(&Config) -> Result<DecoderSpec>,
    ) -> Self {
        Self { model_type, describe: Describe::CausalLm(describe) }
    }

    const fn image_text_to_text(
        model_type: &'static str,
        describe: fn(&Config) -> Result<ModelSpec>,
    ) -> Self {
        Self { model_type, describe: Describe::ImageTextToText(describe) }
    }

    /// The family a `config.json` is of.
    ///
    /// # Errors
    /// [`Error::Config`] for one that is not known.
    pub fn of(config: &Config) -> Result<Self> {
        let model_type: String = config.required("model_type")?;
        let family = FAMILIES.into_iter().find(|family| family.model_type == model_type);
        family.ok_or_else(|| {
            let known: Vec<_> = FAMILIES.iter().map(|f| format!("`{}`", f.model_type)).collect();
            Error::Config {
                file: config.file().to_owned(),
                problem: format!(
                    "model_type `{model_type}` is not known, expected one of {}",
                    known.join(", ")
                ),
            }
        })
    }

    /// What its models do.
    pub const fn task(&self) -> Task {
        match self.describe {
            Describe::CausalLm(_) => Task::CausalLm,
            Describe::ImageTextToText(_) => Task::ImageTextToText,
        }
    }
}

/// Reads a `config.json` of any family.
///
/// # Errors
/// [`Error::Config`] for a family that is not known, a missing key or an impossible value.
pub fn describe(config: &Config) -> Result<ModelSpec> {
    if let Some(quantization) = config.sub("quantization_config")? {
        let method: Option<String> = quantization.optional("quant_method")?;
        return Err(Error::Config {
            file: config.file().to_owned(),
            problem: format!(
                "the weights are quantised{}, expected a checkpoint in F32, F16 or BF16",
                method.map_or(String::new(), |method| format!(" by `{method}`"))
            ),
        });
    }
    let spec = match Family::of(config)?.describe {
        Describe::CausalLm(describe) => ModelSpec { text: describe(config)?, vision: None },
        Describe::ImageTextToText(describe) => describe(config)?,
    };
    for moe in spec.text.moe_layers() {
        let core = |error: moexperts_core::Error| Error::Config {
            file: config.file().to_owned(),
            problem: error.to_string(),
        };
        if moe.router.top_k > 0 && moe.router.top_k <= moe.num_experts {
            checks::router(&moe.router, moe.num_experts).map_err(core)?;
        } else {
            return Err(Error::Config {
                file: config.file().to_owned(),
                problem: format!(
                    "num_experts_per_tok is {}, expected 1 to {} (the experts of a layer)",
                    moe.router.top_k, moe.num_experts
                ),
            });
        }
    }
    Ok(spec)
}

/// No dimension of a model is larger: products of two stay far from overflow.
const MAX_DIMENSION: usize = 1 << 28;

/// No model has more layers.
const MAX_LAYERS: usize = 1 << 14;

/// Reads a dimension: a positive number of a size a model can have.
fn dimension(config: &Config, key: &str) -> Result<usize> {
    bounded(config, key, MAX_DIMENSION, config.required(key)?)
}

/// Reads a dimension that may be absent.
fn dimension_or(config: &Config, key: &str, default: usize) -> Result<usize> {
    bounded(config, key, MAX_DIMENSION, config.or(key, default)?)
}

/// Reads the number of experts, under either of its names.
fn num_experts(config: &Config, default: usize) -> Result<usize> {
    let local = "num_local_experts";
    let key = if config.contains(local) { local } else { "num_experts" };
    dimension_or(config, key, default)
}

/// Reads `num_hidden_layers`.
fn num_layers(config: &Config) -> Result<usize> {
    layers(config, "num_hidden_layers")
}

/// Reads a number of layers.
fn layers(config: &Config, key: &str) -> Result<usize> {
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
struct Defaults {
    rope_theta: f64,
    rms_norm_eps: f32,
    /// The part of a head that the rotary embedding turns.
    partial_rotary_factor: f64,
    /// Width of a head; `hidden_size` divided by the heads if `None`.
    head_dim: Option<usize>,
}

impl Defaults {
    /// Rotary embeddings over whole heads, which share the hidden size.
    const fn new(rope_theta: f64, rms_norm_eps: f32) -> Self {
        Self { rope_theta, rms_norm_eps, partial_rotary_factor: 1.0, head_dim: None }
    }
}

/// Reads what every family shares: a decoder whose layers are left to the family, and the heads of
/// its attention.
fn decoder(config: &Config, defaults: &Defaults) -> Result<(DecoderSpec, Attention)> {
    let hidden_size = dimension(config, "hidden_size")?;
    let attention = attention(config, hidden_size, defaults.head_dim)?;
    let decoder = DecoderSpec {
        model_type: config.required("model_type")?,
        backbone: "",
        module: "model",
        vocab_size: dimension(config, "vocab_size")?,
        hidden_size,
        rms_norm_eps: config.or("rms_norm_eps", defaults.rms_norm_eps)?,
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

/// Whether layer `index` is a sliding one, as `layer_types` says, if it is there.
fn slides(config: &Config, index: usize) -> Result<Option<bool>> {
    let types = config.optional::<Vec<String>>("layer_types")?;
    Ok(types.map(|types| types.get(index).is_some_and(|kind| kind == "sliding_attention")))
}

/// Reads a window; 0 means none.
fn window(config: &Config) -> Result<Option<usize>> {
    let window: Option<usize> = config.optional("sliding_window")?;
    Ok(window.filter(|&window| window > 0))
}

/// Reads `hidden_act`.
fn activation(config: &Config) -> Result<Activation> {
    activation_or(config, "silu")
}

/// Reads `hidden_act` where it may be absent.
fn activation_or(config: &Config, default: &str) -> Result<Activation> {
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

/// Whether layer `index` has experts: every `decoder_sparse_step`-th one that is not listed in
/// `mlp_only_layers`.
fn is_sparse(config: &Config, index: usize) -> Result<bool> {
    let step = config.or("decoder_sparse_step", 1_usize)?;
    let dense: Vec<usize> = config.or("mlp_only_layers", Vec::new())?;
    Ok(!dense.contains(&index) && step > 0 && (index + 1).is_multiple_of(step))
}
