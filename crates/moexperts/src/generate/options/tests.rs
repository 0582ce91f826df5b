use super::*;
use crate::{config::Config, warnings::Warnings};

fn config(text: &str) -> GenerationConfig {
    let file = Config::parse("generation_config.json", text).unwrap();
    GenerationConfig::read(Some(&file), None, None, &mut Warnings::default()).unwrap()
}

#[track_caller]
fn check_refused(options: &GenerateOptions, expected: &str) {
    let refused = options.resolve(&GenerationConfig::default()).unwrap_err();
    assert_eq!(refused.to_string(), expected);
}

fn resolved(options: &GenerateOptions, text: &str) -> ResolvedOptions {
    options.resolve(&config(text)).unwrap()
}

#[test]
fn without_files_the_defaults_are_those_of_transformers() {
    let options = GenerateOptions { seed: Some(5), ..GenerateOptions::default() };
    assert_eq!(
        options.resolve(&GenerationConfig::default()).unwrap(),
        ResolvedOptions {
            length: Length::Default,
            max_time: None,
            sampling: None,
            processors: Vec::new(),
            logprobs: None,
            seed: 5,
            eos_token_id: Vec::new(),
            stop_strings: Vec::new(),
            decode_switch: true,
        }
    );
    let sampled = GenerateOptions { do_sample: Some(true), ..options };
    assert_eq!(
        sampled.resolve(&GenerationConfig::default()).unwrap().sampling,
        Some(Sampling { top_k: Some(50), ..Sampling::default() })
    );
}

const EVERYTHING: &str = r#"{
    "max_new_tokens": 9, "do_sample": true, "temperature": 0.5, "top_k": 3, "top_p": 0.25,
    "min_p": 0.125, "repetition_penalty": 1.5, "eos_token_id": [1, 2], "bos_token_id": 3,
    "pad_token_id": 4
}"#;

#[test]
fn the_model_fills_what_the_user_left_open() {
    let options = resolved(&GenerateOptions::default(), EVERYTHING);
    assert_eq!(options.length, Length::New(9));
    assert_eq!(
        options.sampling,
        Some(Sampling {
            temperature: 0.5,
            top_k: Some(3),
            top_p: 0.25,
            min_p: 0.125,
            ..Sampling::default()
        })
    );
    assert_eq!(options.processors, [Processor::RepetitionPenalty(1.5)]);
    assert_eq!(options.eos_token_id, [1, 2]);
    assert_eq!(
        (config(EVERYTHING).bos_token_id, config(EVERYTHING).pad_token_id),
        (Some(3), Some(4))
    );
}

#[test]
fn the_user_overrides_the_model() {
    let options = GenerateOptions {
        max_new_tokens: Some(1),
        do_sample: Some(true),
        temperature: Some(2.0),
        top_k: Some(0),
        top_p: Some(1.0),
        min_p: Some(0.0),
        repetition_penalty: Some(1.0),
        seed: Some(8),
        eos_token_id: Some(vec![5]),
        stop_strings: vec!["end".into()],
        decode_switch: false,
        ..GenerateOptions::default()
    };
    assert_eq!(
        resolved(&options, EVERYTHING),
        ResolvedOptions {
            length: Length::New(1),
            max_time: None,
            sampling: Some(Sampling { temperature: 2.0, ..Sampling::default() }),
            processors: Vec::new(),
            logprobs: None,
            seed: 8,
            eos_token_id: vec![5],
            stop_strings: vec!["end".into()],
            decode_switch: false,
        }
    );
    let ignoring = GenerateOptions { ignore_eos: true, ..options };
    assert!(resolved(&ignoring, EVERYTHING).eos_token_id.is_empty());
}

#[test]
fn asking_for_a_narrower_draw_asks_for_draws() {
    let samples = |options: GenerateOptions, text| resolved(&options, text).sampling.is_some();
    let unset = GenerateOptions::default;
    for options in [
        GenerateOptions { temperature: Some(0.7), ..unset() },
        GenerateOptions { top_k: Some(5), ..unset() },
        GenerateOptions { top_p: Some(0.9), ..unset() },
        GenerateOptions { min_p: Some(0.1), ..unset() },
        GenerateOptions { top_h: Some(0.4), ..unset() },
        GenerateOptions { typical_p: Some(0.9), ..unset() },
        GenerateOptions { epsilon_cutoff: Some(0.001), ..unset() },
        GenerateOptions { eta_cutoff: Some(0.001), ..unset() },
    ] {
        assert!(samples(options.clone(), "{}"));
        assert!(!samples(GenerateOptions { do_sample: Some(false), ..options }, "{}"));
    }
    assert!(!samples(unset(), r#"{"temperature": 0.6, "top_p": 0.9}"#));
    let greedy = GenerateOptions { temperature: Some(0.0), ..unset() };
    assert!(!samples(greedy.clone(), r#"{"do_sample": true}"#));
    assert!(!samples(GenerateOptions { do_sample: Some(true), top_k: Some(5), ..greedy }, "{}"));
    assert!(!samples(GenerateOptions { do_sample: Some(false), ..unset() }, EVERYTHING));
}

#[test]
fn seeds_differ_unless_one_is_set() {
    let seed = || resolved(&GenerateOptions::default(), "{}").seed;
    assert_ne!(seed(), seed());
}

#[test]
fn values_out_of_range_are_refused() {
    let unset = GenerateOptions::default;
    let temperature = |value| GenerateOptions { temperature: Some(value), ..unset() };
    let expected = "expected a finite number above 0, or 0 for the most likely token";
    check_refused(&temperature(-0.5), &format!("option `temperature` is -0.5, {expected}"));
    check_refused(&temperature(f32::NAN), &format!("option `temperature` is NaN, {expected}"));
    check_refused(&temperature(f32::INFINITY), &format!("option `temperature` is inf, {expected}"));
    check_refused(
        &GenerateOptions { top_p: Some(0.0), ..unset() },
        "option `top_p` is 0, expected above 0 and at most 1",
    );
    check_refused(
        &GenerateOptions { top_p: Some(1.5), ..unset() },
        "option `top_p` is 1.5, expected above 0 and at most 1",
    );
    check_refused(
        &GenerateOptions { min_p: Some(-0.1), ..unset() },
        "option `min_p` is -0.1, expected at least 0 and at most 1",
    );
    check_refused(
        &GenerateOptions { repetition_penalty: Some(0.0), ..unset() },
        "option `repetition_penalty` is 0, expected a finite number above 0",
    );
    check_refused(
        &GenerateOptions { max_new_tokens: Some(0), ..unset() },
        "option `max_new_tokens` is 0, expected at least 1",
    );
    check_refused(
        &GenerateOptions { stop_strings: vec!["a".into(), String::new()], ..unset() },
        "option `stop_strings` is \"\", expected texts that are not empty",
    );
}
