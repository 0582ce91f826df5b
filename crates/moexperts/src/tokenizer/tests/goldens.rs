//! Tokenizers from all files of a model, against what transformers makes of the same files.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::super::*;
use crate::{
    checkpoint::Checkpoint, config::Config, files::StaticBytes, special_tokens::SpecialTokens,
};

const GOLDENS: &str = include_str!("../../../../../testdata/tokenizers/goldens.json");

#[repr(align(8))]
struct Aligned([u8; 10]);
static WEIGHTS: Aligned = Aligned(*b"\x02\0\0\0\0\0\0\0{}");

/// A model of the files of a case.
fn files(base: &Value, model_type: &str, files: &Value) -> ModelFiles {
    let weights = Arc::new(StaticBytes::new(&WEIGHTS.0));
    let checkpoint = Checkpoint::from_storage("model.safetensors", weights).unwrap();
    let config = json!({"model_type": model_type}).to_string();
    let mut model =
        ModelFiles::new("model", Config::parse("config.json", &config).unwrap(), checkpoint);
    for (name, content) in files.as_object().unwrap() {
        let parsed = |content: &Value| Some(Config::parse(name, &content.to_string()).unwrap());
        match name.as_str() {
            "tokenizer.json" => {
                let mut tokenizer = base.clone();
                for (key, value) in content.as_object().unwrap() {
                    tokenizer[key] = value.clone();
                }
                model.tokenizer = Some(tokenizer.to_string().into_bytes());
            }
            "tokenizer_config.json" => model.tokenizer_config = parsed(content),
            "special_tokens_map.json" => model.special_tokens_map = parsed(content),
            "added_tokens.json" => model.added_tokens = parsed(content),
            "vocab.json" => model.vocab = parsed(&base["model"]["vocab"]),
            "merges.txt" => model.merges = content.as_str().map(str::to_owned),
            _ => unreachable!("{name}"),
        }
    }
    model
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn agrees_with_transformers_on_every_way_of_storing_tokens() {
    let goldens: Value = serde_json::from_str(GOLDENS).unwrap();
    let texts = goldens["texts"].as_array().unwrap();
    for case in goldens["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let model = files(&goldens["base"], case["model_type"].as_str().unwrap(), &case["files"]);
        let tokenizer = Tokenizer::read(&model, &mut Warnings::default()).unwrap().unwrap();
        assert_eq!(tokenizer.vocab_size(), case["size"].as_u64().unwrap() as usize, "{name}");
        for (text, expected) in texts.iter().zip(case["texts"].as_array().unwrap()) {
            let text = text.as_str().unwrap();
            let encoded = tokenizer.encode(text, true).unwrap();
            assert_eq!(encoded, ids(&expected["ids"]), "{name}: {text}");
            assert_eq!(tokenizer.decode(&encoded, true).unwrap(), expected["skipped"], "{name}");
            let plain = if expected["plain"].is_null() { "ids" } else { "plain" };
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&expected[plain]), "{name}");
        }
        let pieces = tokenizer.pieces(texts[0].as_str().unwrap(), true).unwrap();
        let tokens: Vec<_> = pieces.iter().map(|piece| piece.token.as_str()).collect();
        assert_eq!(json!(tokens), case["tokens"], "{name}");
        let roles = SpecialTokens::of(&model).unwrap();
        let roles: BTreeMap<_, _> = roles.iter().collect();
        assert_eq!(json!(roles), case["roles"], "{name}");
    }
}

/// The warnings of a case.
fn warnings(name: &str) -> Vec<String> {
    let goldens: Value = serde_json::from_str(GOLDENS).unwrap();
    let cases = goldens["cases"].as_array().unwrap();
    let case = cases.iter().find(|case| case["name"] == name).expect(name);
    let model = files(&goldens["base"], case["model_type"].as_str().unwrap(), &case["files"]);
    let mut warnings = Warnings::default();
    Tokenizer::read(&model, &mut warnings).unwrap().unwrap();
    warnings.iter().map(str::to_owned).collect()
}

#[test]
fn what_files_say_differently_is_named() {
    for (name, expected) in [
        ("nothing but tokenizer.json", [].as_slice()),
        ("tokens in added_tokens_decoder only", &[]),
        ("tokens in both", &[]),
        (
            "additional_special_tokens",
            &["`<img>` is not in the vocabulary; it is added with id 263", "`<tool>`"],
        ),
        (
            "ids that differ",
            &["`<|im_end|>` has id 300 in the list of added tokens, but 263", "id 400"],
        ),
        ("ids the other way round", &["has id 263", "has id 264"]),
        (
            "special_tokens_map does not count",
            &["special_tokens_map.json: `bos_token` is `<s>`, which does not count"],
        ),
        ("added_tokens.json does not count", &["added_tokens.json: `<tool>` does not count"]),
        (
            "add_bos_token against the post-processor",
            &["`add_bos_token` is false, which does not count", "`add_eos_token` is true"],
        ),
        ("add_prefix_space of the config", &["`add_prefix_space` is true, which does not count"]),
        ("clean_up_tokenization_spaces", &["`clean_up_tokenization_spaces` is true"]),
        (
            "Qwen2Tokenizer in qwen3_moe",
            &[
                "tokenizer.json: `normalizer`, `pre_tokenizer` do not count",
                "eos_token `<|endoftext|>` is not in the vocabulary",
            ],
        ),
        (
            "GPT2Tokenizer in qwen3_moe",
            &["tokenizer.json: `pre_tokenizer` does not count", "bos_token"],
        ),
    ] {
        let warnings = warnings(name);
        assert_eq!(warnings.len(), expected.len(), "{name}: {warnings:#?}");
        for (warning, part) in warnings.iter().zip(expected) {
            assert!(warning.contains(part), "{name}: {warning}");
        }
    }
}

fn refused(name: &str, content: Value) -> String {
    let goldens: Value = serde_json::from_str(GOLDENS).unwrap();
    let model = files(&goldens["base"], "mixtral", &json!({"tokenizer.json": {}, name: content}));
    Tokenizer::read(&model, &mut Warnings::default()).unwrap_err().to_string()
}

#[test]
fn what_is_no_token_is_refused() {
    let config = "tokenizer_config.json";
    let object = "text or an object with `content`";
    for (name, content, problem) in [
        (config, json!({"bos_token": 1}), format!("key `bos_token` is 1, expected {object}")),
        (config, json!({"eos_token": ["a"]}), format!("expected {object}")),
        ("special_tokens_map.json", json!({"pad_token": {}}), format!("expected {object}")),
        (config, json!({"extra_special_tokens": [1]}), format!("expected {object}")),
        (config, json!({"extra_special_tokens": "a"}), "expected a list of tokens".to_owned()),
        (config, json!({"added_tokens_decoder": []}), "expected an object of token ids".to_owned()),
        (config, json!({"added_tokens_decoder": {"x": {"content": "a"}}}), "token ids".to_owned()),
        (config, json!({"added_tokens_decoder": {"-1": {"content": "a"}}}), "token ids".to_owned()),
        (config, json!({"added_tokens_decoder": {"1": "a"}}), "objects with `content`".to_owned()),
        ("added_tokens.json", json!({"a": -1}), "key `a` is -1, expected a token id".to_owned()),
        (config, json!({"tokenizer_class": 1}), "key `tokenizer_class` is 1".to_owned()),
    ] {
        let refused = refused(name, content);
        assert!(refused.starts_with(name) && refused.contains(&problem), "{refused}");
    }
}

#[test]
fn a_tokenizer_of_another_format_is_named() {
    let goldens: Value = serde_json::from_str(GOLDENS).unwrap();
    let mut model = files(&goldens["base"], "mixtral", &json!({}));
    assert!(Tokenizer::read(&model, &mut Warnings::default()).unwrap().is_none());
    model.other_tokenizers = vec!["tokenizer.model".to_owned()];
    let error = Tokenizer::read(&model, &mut Warnings::default()).unwrap_err().to_string();
    assert!(error.contains("missing tokenizer.json; there is tokenizer.model"), "{error}");
    assert!(error.contains("save_pretrained"), "{error}");
}

#[test]
fn tokens_beyond_the_model_are_named() {
    let goldens: Value = serde_json::from_str(GOLDENS).unwrap();
    let tokens = json!({"tokenizer.json": {}, "tokenizer_config.json": {"pad_token": "<pad>"}});
    let mut model = files(&goldens["base"], "mixtral", &tokens);
    let config = r#"{"model_type": "mixtral", "vocab_size": 263}"#;
    model.config = Config::parse("config.json", config).unwrap();
    let mut warnings = Warnings::default();
    Tokenizer::read(&model, &mut warnings).unwrap();
    let beyond = "1 token beyond the model's `vocab_size` of 263, the first is `<pad>` with id 263";
    assert!(warnings.iter().any(|warning| warning.contains(beyond)), "{warnings}");
}

#[test]
fn pieces_say_where_they_stand() {
    let goldens: Value = serde_json::from_str(GOLDENS).unwrap();
    let tokens = json!({"tokenizer.json": {}, "tokenizer_config.json": {"pad_token": "<pad>"}});
    let model = files(&goldens["base"], "mixtral", &tokens);
    let tokenizer = Tokenizer::read(&model, &mut Warnings::default()).unwrap().unwrap();
    let pieces = tokenizer.pieces("é hello<pad>", true).unwrap();
    let shown: Vec<_> = pieces
        .iter()
        .map(|piece| (piece.id, &*piece.token, &*piece.text, piece.bytes.clone(), piece.special))
        .collect();
    assert_eq!(
        shown,
        [
            (195, "Ã", "\u{fffd}", 0..2, false),
            (169, "©", "\u{fffd}", 0..2, false),
            (260, "Ġhello", " hello", 2..8, false),
            (263, "<pad>", "<pad>", 8..13, true),
        ]
    );
}
