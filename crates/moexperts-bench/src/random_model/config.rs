//! What `config.json` says of the model with the layers of a shape.

use moexperts::{DType, ExpertsSpec};
use serde_json::{Value, json};

use crate::{args::LayerShape, error::BenchError};

/// Width of a head where a shape is given as numbers: that of every named model.
pub(crate) const HEAD_DIM: usize = 128;

/// Query heads that share a key/value head there, if their number is a multiple of it.
const SHARING_HEADS: usize = 4;

/// Tokens in the vocabulary there, those of Mixtral. With a small H the embedding and the head would
/// be most of the model if it were larger.
pub(crate) const VOCABULARY: usize = 32000;

/// What a shape has its model have beside the numbers of the shape.
type Rest = fn(&ExpertsSpec) -> Value;

/// The named shapes whose models are of a family that can be loaded.
const NAMED: [(&str, Rest); 5] = [
    ("qwen1.5-moe", qwen2_moe),
    ("olmoe", olmoe),
    ("qwen3-30b", qwen3_moe),
    ("mixtral", mixtral),
    ("gpt-oss-20b", gpt_oss),
];

/// The config, but for what says nothing of the computation. There is no end of sequence: random
/// models say nothing that could end.
pub(crate) fn of(shape: &LayerShape, layers: usize) -> Result<Value, BenchError> {
    let spec = shape.spec(DType::Bf16);
    let mut config = match NAMED.iter().find(|(name, _)| *name == shape.name) {
        Some((_, rest)) => rest(&spec),
        None if shape.is_numbered() => numbered(&spec),
        None => {
            let names = NAMED.map(|(name, _)| format!("`{name}`"));
            return Err(BenchError::NoFamily {
                shape: shape.name.clone(),
                known: names.join(", "),
            });
        }
    };
    config["hidden_act"] = "silu".into();
    config["hidden_size"] = spec.hidden.into();
    config["num_experts_per_tok"] = shape.top_k.into();
    config["num_hidden_layers"] = layers.into();
    config["tie_word_embeddings"] = false.into();
    Ok(config)
}

/// `Qwen/Qwen1.5-MoE-A2.7B`.
fn qwen2_moe(spec: &ExpertsSpec) -> Value {
    json!({
        "model_type": "qwen2_moe",
        "decoder_sparse_step": 1,
        "intermediate_size": 5632,
        "max_position_embeddings": 8192,
        "max_window_layers": 21,
        "moe_intermediate_size": spec.intermediate,
        "norm_topk_prob": false,
        "num_attention_heads": 16,
        "num_experts": spec.experts,
        "num_key_value_heads": 16,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "shared_expert_intermediate_size": 5632,
        "sliding_window": 32768,
        "use_sliding_window": false,
        "vocab_size": 151_936,
    })
}

/// `allenai/OLMoE-1B-7B-0924`.
fn olmoe(spec: &ExpertsSpec) -> Value {
    json!({
        "model_type": "olmoe",
        "attention_bias": false,
        "clip_qkv": null,
        "intermediate_size": spec.intermediate,
        "max_position_embeddings": 4096,
        "norm_topk_prob": false,
        "num_attention_heads": 16,
        "num_experts": spec.experts,
        "num_key_value_heads": 16,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "vocab_size": 50304,
    })
}

/// `Qwen/Qwen3-30B-A3B`.
fn qwen3_moe(spec: &ExpertsSpec) -> Value {
    json!({
        "model_type": "qwen3_moe",
        "attention_bias": false,
        "decoder_sparse_step": 1,
        "head_dim": 128,
        "intermediate_size": 6144,
        "max_position_embeddings": 40960,
        "mlp_only_layers": [],
        "moe_intermediate_size": spec.intermediate,
        "norm_topk_prob": true,
        "num_attention_heads": 32,
        "num_experts": spec.experts,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "use_sliding_window": false,
        "vocab_size": 151_936,
    })
}

/// `mistralai/Mixtral-8x7B-v0.1`.
fn mixtral(spec: &ExpertsSpec) -> Value {
    json!({
        "model_type": "mixtral",
        "intermediate_size": spec.intermediate,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_local_experts": spec.experts,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "sliding_window": null,
        "vocab_size": 32000,
    })
}

/// `openai/gpt-oss-20b`, but for its packed experts.
fn gpt_oss(spec: &ExpertsSpec) -> Value {
    json!({
        "model_type": "gpt_oss",
        "attention_bias": true,
        "head_dim": 64,
        "intermediate_size": spec.intermediate,
        "max_position_embeddings": 131_072,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "num_local_experts": spec.experts,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": false,
        },
        "rope_theta": 150_000,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "vocab_size": 201_088,
    })
}

/// Qwen3's layers with the numbers of the shape; heads enough to be as wide as H, or wider.
fn numbered(spec: &ExpertsSpec) -> Value {
    let heads = spec.hidden.div_ceil(HEAD_DIM);
    let sharing = if heads.is_multiple_of(SHARING_HEADS) { SHARING_HEADS } else { 1 };
    let mut config = qwen3_moe(spec);
    config["head_dim"] = HEAD_DIM.into();
    config["intermediate_size"] = spec.intermediate.into();
    config["num_attention_heads"] = heads.into();
    config["num_key_value_heads"] = (heads / sharing).into();
    config["vocab_size"] = VOCABULARY.into();
    config
}
