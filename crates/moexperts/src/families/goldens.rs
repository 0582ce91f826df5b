//! Configs as transformers reads them: every default, every dialect of the rotary embedding.

use std::collections::BTreeMap;

use moexperts_core::Activation;
use serde_json::{Map, Value, json};

use super::describe;
use crate::{
    blocks::{FeedForward, Mixer},
    config::Config,
    model::ModelSpec,
    weights::Stored,
};

fn cases(name: &str) -> Vec<Value> {
    let path = format!("../../testdata/configs/{name}.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn config(case: &Value) -> Config {
    let mut json = case["config"].clone();
    if let Some(model_type) = case.get("model_type") {
        json["model_type"] = model_type.clone();
    }
    Config::parse("config.json", &json.to_string()).unwrap()
}

/// The name of a tensor with `*` for the number of its layer.
fn pattern(name: &str) -> String {
    let number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<_> = name.split('.').map(|part| if number(part) { "*" } else { part }).collect();
    parts.join(".")
}

/// A checkpoint with the tensors of the facts, whatever the number of a layer.
struct Facts(BTreeMap<String, Vec<usize>>);

impl Facts {
    fn new(facts: &Map<String, Value>) -> Self {
        let shape = |(key, value): (&String, &Value)| {
            let mut shape: Vec<usize> = serde_json::from_value(value.clone()).ok()?;
            shape.pop();
            Some((key.strip_prefix("tensor ")?.to_owned(), shape))
        };
        Self(facts.iter().filter_map(shape).collect())
    }
}

impl Stored for Facts {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.0.get(&pattern(name)).map(Vec::as_slice)
    }
}

/// What the goldens tell of a model, of ours.
fn facts(spec: &ModelSpec, stored: &Facts) -> Map<String, Value> {
    let mut tensors: BTreeMap<String, (Vec<usize>, usize)> = BTreeMap::new();
    for tensor in spec.tensors(stored) {
        let (shape, count) = tensors.entry(pattern(&tensor.name)).or_default();
        *shape = tensor.shape;
        *count += 1;
    }
    let tensor = |(name, (mut shape, count)): (String, (Vec<usize>, usize))| {
        shape.push(count);
        (format!("tensor {name}"), json!(shape))
    };
    let mut facts: Map<String, Value> = tensors.into_iter().map(tensor).collect();
    let text = &spec.text;
    let attention = |layer: usize| match &text.layers[layer].mixer {
        Mixer::Attention(attention) => attention,
    };
    let windows = (0..text.layers.len()).map(|layer| attention(layer).sliding_window);
    let sparse = text.layers.iter().enumerate().filter_map(|(index, layer)| {
        matches!(layer.feed_forward, FeedForward::Moe(_)).then_some(index)
    });
    let moe = text.moe_layers().next();
    let act = match moe.map(|moe| moe.activation) {
        Some(Activation::Gelu) => "gelu",
        Some(Activation::GeluTanh) => "gelu_pytorch_tanh",
        _ => "silu",
    };
    for (key, value) in [
        ("rms_norm_eps", json!(text.rms_norm_eps)),
        ("max_position_embeddings", json!(text.max_position_embeddings)),
        ("tie_word_embeddings", json!(text.tie_word_embeddings)),
        ("windows", json!(windows.collect::<Vec<_>>())),
        ("sparse", json!(sparse.collect::<Vec<_>>())),
        ("top_k", json!(moe.map(|moe| moe.router.top_k))),
        ("scale", json!(attention(0).scale)),
        ("rope_theta", json!(text.ropes[0].rope_theta)),
        ("norm_topk_prob", json!(moe.map(|moe| moe.router.normalise.is_some()))),
        ("clip_qkv", json!(attention(0).clip_qkv)),
        ("hidden_act", json!(act)),
    ] {
        facts.insert(key.to_owned(), value);
    }
    facts
}

/// Whether two facts are the same, numbers to the precision of f32.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * a.abs(),
        _ => a == b,
    }
}

/// Keys that transformers refuses and that mean nothing to the family here, or what they say anyway.
fn is_lenient(case: &Value) -> bool {
    let family = case["model_type"].as_str().unwrap();
    let keys = case["config"].get("text_config").unwrap_or(&case["config"]);
    let has_layer_types = matches!(family, "gpt_oss" | "qwen2_moe");
    let says = |key: &str| keys.get(key).is_some();
    (says("head_dim") && !matches!(family, "gpt_oss" | "minimax_m2"))
        || (says("layer_types") && !has_layer_types)
}

#[test]
fn every_key_and_every_key_left_out_means_what_it_means_to_transformers() {
    let (mut base, mut compared) = (Map::new(), 0);
    for case in cases("families") {
        let config = config(&case);
        let what = format!("{} {}", case["model_type"], case["config"]);
        let described = describe(&config);
        if case.get("error").is_some() {
            assert!(described.is_err() || is_lenient(&case), "{what}");
            continue;
        }
        let expected = match (case.get("facts"), case.get("changed")) {
            (Some(Value::Object(facts)), _) => {
                base = facts.clone();
                base.clone()
            }
            (_, Some(Value::Object(changed))) => {
                let mut facts = base.clone();
                facts.extend(changed.clone());
                // `null` is a value of other facts.
                facts.retain(|key, value| !(key.starts_with("tensor ") && value.is_null()));
                facts
            }
            _ => panic!("{what}"),
        };
        let spec = described.unwrap_or_else(|error| panic!("{what}: {error}"));
        let got = facts(&spec, &Facts::new(&expected));
        for (key, expected) in &expected {
            let got = got.get(key).unwrap_or(&Value::Null);
            assert!(same(got, expected), "{what} {key}: {got}, expected {expected}");
            compared += 1;
        }
        let surplus =
            got.keys().find(|key| key.starts_with("tensor ") && !expected.contains_key(*key));
        assert_eq!(surplus, None, "{what}");
    }
    assert!(compared > 7000, "{compared}");
}

#[test]
fn every_dialect_of_the_rotary_embedding_has_transformers_frequencies() {
    for case in cases("rope") {
        let what = case["config"].to_string();
        let described = describe(&config(&case));
        if case.get("error").is_some() {
            assert!(described.is_err(), "{what}");
            continue;
        }
        let spec = described.unwrap_or_else(|error| panic!("{what}: {error}"));
        let rope = &spec.text.ropes[0];
        for (length, expected) in case["inv_freq"].as_object().unwrap() {
            let got = rope.inv_freq(length.parse().unwrap());
            let expected: Vec<f64> = serde_json::from_value(expected.clone()).unwrap();
            assert_eq!(got.len(), expected.len(), "{what}");
            for (got, expected) in got.iter().zip(&expected) {
                assert!(
                    (got - expected).abs() <= 1e-5 * expected,
                    "{what} {length}: {got}, {expected}"
                );
            }
        }
        let scaling = case["attention_scaling"].as_f64().unwrap();
        assert!((rope.attention_scaling() - scaling).abs() < 1e-6, "{what}");
    }
}
