//! What of a `config.json` is not obeyed.

use serde_json::{Value, json};

use super::describe;
use crate::{config::Config, warnings::Warnings};

/// Keys without effect on what a model computes here: what training needs, what is written for the
/// record, and what other files say (the tokenizer's and `generation_config.json`).
const NO_EFFECT: &[&str] = &[
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "experts_implementation",
    "finetuning_task",
    "gradient_checkpointing",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "resid_pdrop",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "sep_token_id",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
];

/// Settings of generation, which older checkpoints have in `config.json`.
const GENERATION: &[&str] = &[
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "suppress_tokens",
    "target_lookbehind",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];

/// Keys of published configs that no class of transformers reads, with what is computed whatever they
/// say: the family (`""`: each), the key, and the values that say just that (none: any value does).
fn computed_anyway() -> Vec<(&'static str, &'static str, Vec<Value>)> {
    let on = || vec![json!(true)];
    vec![
        ("", "mrope_interleaved", on()),
        ("gpt_oss", "hidden_act", vec![json!("silu")]),
        ("gpt_oss", "experts_per_token", vec![]),
        ("gpt_oss", "initial_context_length", vec![]),
        ("minimax_m2", "attn_type_list", vec![]),
        ("minimax_m2", "layernorm_full_attention_beta", vec![json!(1), json!(1.0)]),
        ("minimax_m2", "layernorm_linear_attention_beta", vec![json!(1), json!(1.0)]),
        ("minimax_m2", "layernorm_mlp_beta", vec![json!(1), json!(1.0)]),
        ("minimax_m2", "mlp_intermediate_size", vec![]),
        ("minimax_m2", "mtp_transformer_layers", vec![]),
        ("minimax_m2", "num_mtp_modules", vec![]),
        ("minimax_m2", "qk_norm_type", vec![json!("per_layer")]),
        ("minimax_m2", "scoring_func", vec![json!("sigmoid")]),
        ("minimax_m2", "shared_intermediate_size", vec![json!(0)]),
        ("minimax_m2", "shared_moe_mode", vec![]),
        ("minimax_m2", "use_mtp", vec![]),
        ("minimax_m2", "use_qk_norm", on()),
        ("minimax_m2", "use_routing_bias", on()),
        ("qwen3_moe", "max_window_layers", vec![]),
        ("qwen3_vl_moe", "norm_topk_prob", on()),
        // Of `text_config`, which the class does not read either.
        ("qwen3_vl_moe", "tie_word_embeddings", vec![]),
    ]
}

/// What of a `config.json` is done differently from what it says: contradictions with how they were
/// resolved, and keys that nothing reads and that may mean something.
pub fn unobeyed(config: &Config) -> Warnings {
    // What cannot be described is an error elsewhere; here it has been read as far as it goes.
    let _ = describe(config);
    let family: String = config.optional("model_type").ok().flatten().unwrap_or_default();
    let computed = computed_anyway();
    let mut warnings = config.warnings();
    for path in config.unread() {
        let key = path.rsplit('.').next().unwrap_or(&path);
        if NO_EFFECT.contains(&key) || GENERATION.contains(&key) {
            continue;
        }
        let stated =
            computed.iter().find(|(of, name, _)| (of.is_empty() || *of == family) && *name == key);
        let value = config.at(&path);
        if stated.is_some_and(|(.., values)| {
            values.is_empty() || value.is_some_and(|v| values.contains(v))
        }) {
            continue;
        }
        warnings.push(format_args!("{}: key `{path}` is not obeyed", config.file()));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(edits: Value) -> Vec<String> {
        let text = std::fs::read_to_string("../../testdata/minimax_m2/config.json").unwrap();
        let mut json: Value = serde_json::from_str(&text).unwrap();
        for (key, value) in edits.as_object().unwrap() {
            json[key] = value.clone();
        }
        let config = Config::parse("config.json", &json.to_string()).unwrap();
        unobeyed(&config).iter().map(str::to_owned).collect()
    }

    #[test]
    fn published_configs_are_obeyed() {
        for case in [
            "gpt_oss",
            "gpt_oss_hub",
            "granitemoe",
            "minimax_m2",
            "mixtral",
            "olmoe",
            "qwen2_moe",
            "qwen2_moe_window",
            "qwen3_moe",
            "qwen3_moe_fused",
            "qwen3_vl_moe",
        ] {
            let path = format!("../../testdata/{case}/config.json");
            let config = Config::parse("config.json", &std::fs::read_to_string(path).unwrap());
            let warnings = unobeyed(&config.unwrap());
            assert!(warnings.is_empty(), "{case}: {warnings}");
        }
    }

    #[test]
    fn a_key_that_is_not_obeyed_is_named_once() {
        let of = |key: &str| vec![format!("config.json: key `{key}` is not obeyed")];
        for (edits, key) in [
            (json!({"attention_sink": 4}), "attention_sink"),
            (json!({"scoring_func": "softmax"}), "scoring_func"),
            (json!({"use_qk_norm": false}), "use_qk_norm"),
            (json!({"sliding_window": 128}), "sliding_window"),
            (
                json!({"rope_scaling": {"rope_type": "linear", "factor": 2, "extra": 1}}),
                "rope_scaling.extra",
            ),
        ] {
            assert_eq!(said(edits), of(key));
        }
        assert!(said(json!({"num_beams": 4, "id2label": {"0": "a"}, "unknown": null})).is_empty());
    }

    #[test]
    fn contradictions_are_named_with_what_counts() {
        for (edits, expected) in [
            (
                json!({"rope_theta": 10.0, "rope_parameters": {"rope_theta": 20.0}}),
                "key `rope_parameters.rope_theta` is 20 and `rope_theta` is 10: \
                 `rope_parameters.rope_theta` is obeyed",
            ),
            (
                json!({"rope_scaling": {"type": "linear", "factor": 2.0},
                       "rope_parameters": {"factor": 4.0}}),
                "keys `rope_scaling` and `rope_parameters` differ and `rope_scaling` is obeyed; \
                 take one of them out",
            ),
            (
                json!({"num_experts": 9}),
                "key `num_experts` is 9 and `num_local_experts` is 8: `num_experts` is obeyed",
            ),
            (
                json!({"rope_scaling": {"type": "linear", "rope_type": "default"}}),
                "key `rope_scaling.rope_type` is \"default\" and `rope_scaling.type` is \"linear\": \
                 `rope_scaling.rope_type` is obeyed",
            ),
            (
                json!({"rope_scaling": {"type": "linear", "factor": 0.5}}),
                "key `rope_scaling.factor` is 0.5, expected at least 1; it is used as it is",
            ),
            (
                json!({"rope_scaling": {"type": "yarn", "factor": 3.0,
                                        "original_max_position_embeddings": 64}}),
                "YaRN's factor is 3, but max_position_embeddings / \
                 original_max_position_embeddings is 4: the factor is obeyed; correct \
                 `original_max_position_embeddings` if it is wrong",
            ),
        ] {
            assert_eq!(said(edits), [format!("config.json: {expected}")]);
        }
    }
}
