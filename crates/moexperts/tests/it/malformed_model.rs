//! Models whose files say impossible things: one test each, with the exact words.

use std::{fs, path::Path};

use moexperts::{AutoModelForCausalLm, LoadOptions};
use serde_json::{Value, json};

use crate::common::{Golden, data};

/// Loads `testdata/qwen2_moe` with one key of its config changed (`null` removes it).
fn with_key(key: &str, value: Value) -> Result<moexperts::LanguageModel, moexperts::Error> {
    let folder = tempfile::tempdir().unwrap();
    let source = data("qwen2_moe");
    for file in ["model.safetensors", "tokenizer.json"] {
        fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    let text = fs::read_to_string(source.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config[key] = value;
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    load(folder.path())
}

fn load(folder: &Path) -> Result<moexperts::LanguageModel, moexperts::Error> {
    AutoModelForCausalLm::from_pretrained(folder.to_str().unwrap(), LoadOptions::new())
}

fn problem(key: &str, value: Value) -> String {
    with_key(key, value).unwrap_err().to_string()
}

#[test]
fn a_number_that_is_null() {
    assert_eq!(
        problem("hidden_size", Value::Null),
        "config.json: key `hidden_size` is null, expected a number, or no such key"
    );
}

#[test]
fn quantised_weights() {
    assert_eq!(
        problem("quantization_config", json!({"quant_method": "mxfp4"})),
        "config.json: the weights are quantised by `mxfp4`, expected a checkpoint in F32, F16 or \
         BF16: load it with transformers and `Mxfp4Config(dequantize=True)`, and save it, or take \
         an unquantised copy"
    );
    assert_eq!(
        problem("quantization_config", json!({"quant_method": "gptq", "bits": 4})),
        "config.json: the weights are quantised by `gptq` to 4 bits, expected a checkpoint in F32, \
         F16 or BF16: take the unquantised model that it was made from"
    );
}

/// A folder of these files, loaded.
fn folder_problem(files: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let path = folder.path().to_str().unwrap().to_owned();
    load(folder.path()).unwrap_err().to_string().replace(&path, "FOLDER")
}

#[test]
fn folders_that_are_no_models_are_told() {
    let adapter = r#"{"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen3-30B-A3B"}"#;
    for (files, expected) in [
        (
            &[("adapter_config.json", adapter), ("adapter_model.safetensors", "")][..],
            "`FOLDER` is a LoRA adapter of `Qwen/Qwen3-30B-A3B`: merge it into that model first, \
             with peft's `merge_and_unload`, and give the folder of the merged model",
        ),
        (
            &[("model_index.json", "{}")],
            "`FOLDER` is a pipeline of diffusers, not a language model",
        ),
        (
            &[("model.gguf", "")],
            "`FOLDER` is a folder without `config.json`, with `model.gguf`: give the model in the \
             format of transformers, with `config.json` and safetensors",
        ),
        (
            &[("params.json", "{}"), ("consolidated.safetensors", "")],
            "`FOLDER` is a model as its publisher's own programs have it (`params.json`): give one \
             in the format of transformers, with `config.json`",
        ),
    ] {
        assert_eq!(folder_problem(files), expected);
    }
    assert_eq!(folder_problem(&[]), "cannot read `FOLDER/config.json`");
}

#[test]
fn a_file_is_no_folder() {
    let path = data("qwen2_moe").join("model.safetensors");
    let expected = format!("`{}` is a file, expected the folder of a model", path.display());
    assert_eq!(load(&path).unwrap_err().to_string(), expected);
}

#[test]
fn an_address_is_no_model() {
    let error = load(Path::new("https://huggingface.co/Qwen/Qwen3-30B-A3B")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`https://huggingface.co/Qwen/Qwen3-30B-A3B` is an address: give the id \
         `Qwen/Qwen3-30B-A3B`"
    );
}

#[cfg(unix)]
#[test]
fn a_link_of_the_cache_to_a_file_that_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let link = |name: &str| std::os::unix::fs::symlink("../blobs/a", folder.path().join(name));
    link("config.json").unwrap();
    let words = "is a link to `../blobs/a`, which is gone";
    let error = load(folder.path()).unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
    fs::remove_file(folder.path().join("config.json")).unwrap();
    fs::copy(data("qwen2_moe").join("config.json"), folder.path().join("config.json")).unwrap();
    link("model.safetensors").unwrap();
    let error = load(folder.path()).unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}

#[test]
fn an_unknown_model_type() {
    assert_eq!(
        problem("model_type", json!("llama")),
        "config.json: model_type `llama` is not known, \
         expected one of `gpt_oss`, `granitemoe`, `minimax_m2`, `mixtral`, `olmoe`, `qwen2_moe`, \
         `qwen3_moe`, `qwen3_vl_moe`"
    );
    let nearest = problem("model_type", json!("qwen3moe"));
    assert!(nearest.ends_with("; `qwen3_moe` is nearest"), "{nearest}");
}

#[test]
fn an_unknown_activation() {
    assert_eq!(
        problem("hidden_act", json!("tanh")),
        "config.json: hidden_act `tanh` is not known, \
         expected one of `silu`, `gelu`, `gelu_pytorch_tanh`, `relu2`"
    );
}

#[test]
fn heads_that_do_not_divide() {
    assert_eq!(
        problem("num_key_value_heads", json!(3)),
        "config.json: 4 heads of 8 cannot share 3 key/value heads, \
         expected num_attention_heads to be a multiple of num_key_value_heads"
    );
}

#[test]
fn a_dimension_no_model_has() {
    for key in ["hidden_size", "num_attention_heads", "vocab_size", "moe_intermediate_size"] {
        for value in [0_u64, 1 << 40, u64::MAX] {
            assert_eq!(
                problem(key, json!(value)),
                format!("config.json: key `{key}` is {value}, expected 1 to 268435456")
            );
        }
    }
    assert_eq!(
        problem("num_hidden_layers", json!(1_000_000_000)),
        "config.json: key `num_hidden_layers` is 1000000000, expected 1 to 16384"
    );
}

#[test]
fn more_experts_a_token_than_experts() {
    assert_eq!(
        problem("num_experts_per_tok", json!(9)),
        "config.json: num_experts_per_tok is 9, expected 1 to 8 (the experts of a layer)"
    );
}

#[test]
fn a_config_that_is_not_of_these_weights() {
    assert_eq!(
        problem("moe_intermediate_size", json!(24)),
        "model.safetensors: tensor `model.layers.0.mlp.experts.0.gate_proj.weight` \
         has shape [20, 32], expected [24, 32]"
    );
    assert!(
        problem("num_hidden_layers", json!(4))
            .starts_with("model.safetensors: missing tensor `model.layers.3.")
    );
}

#[test]
fn a_missing_folder() {
    let error = load(Path::new("/no/such/folder")).unwrap_err();
    let chain = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(chain.contains("/no/such/folder"), "{chain}");
}

#[test]
fn nan_router_weights() {
    let folder = tempfile::tempdir().unwrap();
    let source = data("qwen2_moe");
    fs::copy(source.join("config.json"), folder.path().join("config.json")).unwrap();
    let mut bytes = fs::read(source.join("model.safetensors")).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let offset = header["model.layers.0.mlp.gate.weight"]["data_offsets"][0].as_u64().unwrap();
    let start = 8 + header_len + offset as usize;
    bytes[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    let model = load(folder.path()).unwrap();
    let error = model.logits(Golden::open("qwen2_moe").ids("input_ids")).unwrap_err();
    assert_eq!(error.to_string(), "router logits are not finite at token 0");
}
