use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{
    config::Config,
    generate::{
        config::GenerationConfig,
        options::{GenerateOptions, Length},
        processors::{Place, Processors},
    },
    warnings::Warnings,
};

/// Small random logits and what the processors of transformers make of them.
const GOLDEN: &str = include_str!("../../../../../testdata/generation/logits.json");

fn number(value: &Value) -> f32 {
    match value {
        Value::Null => f32::NEG_INFINITY,
        Value::String(text) => text.parse().unwrap(),
        value => value.as_f64().unwrap() as f32,
    }
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(number).collect()
}

#[track_caller]
fn check_close(name: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{name}");
    for (id, (got, expected)) in got.iter().zip(expected).enumerate() {
        let close = got == expected || (got - expected).abs() < 2e-5 * expected.abs().max(1.0);
        assert!(close, "{name}: token {id} has {got}, expected {expected}");
    }
}

fn softmax(scores: &[f32]) -> Vec<f32> {
    let best = scores.iter().copied().fold(f32::MIN, f32::max);
    let weights: Vec<f32> = scores.iter().map(|score| (score - best).exp()).collect();
    let total: f32 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

#[test]
fn logits_are_processed_as_by_transformers() {
    let cases: Vec<Value> = serde_json::from_str(GOLDEN).unwrap();
    assert!(cases.len() > 60);
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let settings = case["settings"].to_string();
        let file = Config::parse("generation_config.json", &settings).unwrap();
        let config =
            GenerationConfig::read(Some(&file), None, None, &mut Warnings::default()).unwrap();
        let options = GenerateOptions::default().resolve(&config).unwrap();
        let history: Vec<u32> = serde_json::from_value(case["history"].clone()).unwrap();
        let prompt = case["prompt"].as_u64().unwrap() as usize;
        let max_length = match options.length {
            Length::New(new) => prompt + new,
            Length::Total(total) => total,
            Length::Default => prompt + 128,
        };
        let (logits, expected) = (numbers(&case["logits"]), numbers(&case["scores"]));
        let mut processors = Processors::new(&options.processors);
        let place = Place { history: &history, prompt, max_length };
        let scores = processors.apply(&logits, place);
        let Some(sampling) = options.sampling else {
            check_close(name, scores, &expected);
            continue;
        };
        let mut candidates = Candidates::default();
        let best = scores.iter().copied().fold(f32::MIN, f32::max);
        candidates.narrow(scores, best, &sampling);
        let total = candidates.total();
        let mut got = vec![0.0; logits.len()];
        for token in &candidates.tokens {
            got[token.id as usize] = (token.weight / total) as f32;
        }
        check_close(name, &got, &softmax(&expected));
    }
}

/// What stays of the candidates, by sorting everything.
fn kept_by_sorting(logits: &[f32], top_k: usize, top_p: f64) -> Vec<u32> {
    let mut ranked: Vec<usize> = (0..logits.len()).collect();
    ranked.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let least = logits[ranked[top_k.min(logits.len()) - 1]];
    ranked.retain(|&id| logits[id] >= least);
    let weight = |id: usize| (f64::from(logits[id]) - f64::from(logits[ranked[0]])).exp();
    let total: f64 = ranked.iter().map(|&id| weight(id)).sum();
    let mut before = 0.0;
    let mut kept = Vec::new();
    for &id in &ranked {
        if before < top_p * total {
            kept.push(id as u32);
        }
        before += weight(id);
    }
    kept.sort_unstable();
    kept
}

proptest! {
    #[test]
    fn narrowing_is_the_same_as_sorting_everything(
        tenths in prop::collection::vec(-40_i8..40, 1..600),
        top_k in 1_usize..200,
        top_p in 0.01_f64..0.99,
    ) {
        let logits: Vec<f32> = tenths.iter().map(|&tenth| f32::from(tenth) / 10.0).collect();
        let mut candidates = Candidates::default();
        candidates.take_top(&logits, top_k);
        candidates.weigh(logits.iter().copied().fold(f32::MIN, f32::max), 1.0);
        candidates.keep_nucleus(top_p);
        let kept: Vec<u32> = candidates.tokens.iter().map(|token| token.id).collect();
        prop_assert_eq!(kept, kept_by_sorting(&logits, top_k, top_p));
    }
}
