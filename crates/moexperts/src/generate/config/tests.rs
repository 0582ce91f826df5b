use super::*;
use crate::{GenerateOptions, generate::options::Length};

fn read(text: &str) -> (Result<GenerationConfig>, Vec<String>) {
    let file = Config::parse("generation_config.json", text).unwrap();
    let mut warnings = Warnings::default();
    let config = GenerationConfig::read(Some(&file), None, None, &mut warnings);
    (config, warnings.iter().map(str::to_owned).collect())
}

#[track_caller]
fn check_warned(text: &str, expected: &str) {
    let (config, warnings) = read(text);
    config.unwrap();
    assert_eq!(warnings, [format!("generation_config.json: {expected}")], "{text}");
}

#[track_caller]
fn check_silent(text: &str) {
    let (config, warnings) = read(text);
    config.unwrap();
    assert_eq!(warnings, Vec::<String>::new(), "{text}");
}

#[test]
fn what_is_not_supported_is_named_where_it_matters() {
    for (key, default, other) in [
        ("num_beams", "1", "4"),
        ("num_beam_groups", "1", "2"),
        ("num_return_sequences", "1", "3"),
        ("constraints", "null", "[]"),
        ("force_words_ids", "null", "[[1]]"),
        ("dola_layers", "null", "\"high\""),
        ("guidance_scale", "1.0", "1.5"),
        ("watermarking_config", "null", "{\"bias\": 2.0}"),
        ("token_healing", "false", "true"),
        ("cache_implementation", "\"static\"", "\"quantized\""),
        ("use_mtp", "false", "true"),
        ("prompt_lookup_num_tokens", "null", "3"),
        ("assistant_early_exit", "null", "4"),
        ("assistant_ensemble_weight", "null", "0.5"),
        ("speculation_type", "null", "\"dflash\""),
    ] {
        check_silent(&format!(r#"{{"{key}": {default}}}"#));
        let (config, warnings) = read(&format!(r#"{{"{key}": {other}}}"#));
        config.unwrap();
        let begin = format!("generation_config.json: `{key}` is ");
        assert_eq!(warnings.len(), 1, "{key}: {warnings:?}");
        assert!(warnings[0].starts_with(&begin), "{}", warnings[0]);
    }
    check_warned(
        r#"{"num_beams": 4}"#,
        "`num_beams` is 4, which is not supported: one sequence is generated, without a search; \
         remove the key to accept that",
    );
    // Contrastive search needs both, and no draws.
    check_silent(r#"{"penalty_alpha": 0.6}"#);
    check_silent(r#"{"penalty_alpha": 0.6, "top_k": 4, "do_sample": true}"#);
    assert_eq!(read(r#"{"penalty_alpha": 0.6, "top_k": 4}"#).1.len(), 1);
}

#[test]
fn keys_without_effect_are_silent_and_unknown_ones_named() {
    for key in WITHOUT_EFFECT {
        check_silent(&format!(r#"{{"{key}": 7}}"#));
    }
    check_warned(
        r#"{"temprature": 0.5, "transformers_version": "5.23.0", "unset": null}"#,
        "key `temprature` is unknown and has no effect; check how it is spelled",
    );
}

#[test]
fn the_length_that_counts_is_that_of_transformers() {
    check_warned(
        r#"{"max_length": 50, "max_new_tokens": 9}"#,
        "both `max_new_tokens` (9) and `max_length` (50) are set: `max_new_tokens` counts; remove \
         the other",
    );
    check_warned(
        r#"{"min_length": 50, "min_new_tokens": 9}"#,
        "both `min_new_tokens` (9) and `min_length` (50) are set: `min_new_tokens` counts; remove \
         the other",
    );
    check_silent(r#"{"min_length": 0, "min_new_tokens": 9}"#);
    let length = |options: GenerateOptions, text: &str| {
        options.resolve(&read(text).0.unwrap()).unwrap().length
    };
    let unset = GenerateOptions::default;
    assert_eq!(length(unset(), "{}"), Length::Default);
    assert_eq!(length(unset(), r#"{"max_length": 50}"#), Length::Total(50));
    assert_eq!(length(unset(), r#"{"max_length": 50, "max_new_tokens": 9}"#), Length::New(9));
    let new = GenerateOptions { max_new_tokens: Some(3), ..unset() };
    assert_eq!(length(new, r#"{"max_length": 50}"#), Length::New(3));
    let total = GenerateOptions { max_length: Some(30), ..unset() };
    assert_eq!(length(total.clone(), r#"{"max_length": 50}"#), Length::Total(30));
    assert_eq!(length(total, r#"{"max_new_tokens": 9}"#), Length::New(9));
}

#[test]
fn values_that_greedy_generation_never_reads_are_ignored() {
    for value in [
        r#""top_k": -1"#,
        r#""top_k": -7"#,
        r#""top_k": 2.5"#,
        r#""top_p": 1.5"#,
        r#""top_p": "all""#,
        r#""min_p": -1"#,
        r#""typical_p": 0"#,
        r#""top_h": 9"#,
        r#""epsilon_cutoff": 4"#,
        r#""temperature": -2"#,
        r#""temperature": 0.0"#,
    ] {
        let text = format!("{{{value}}}");
        check_silent(&text);
        let config = read(&text).0.unwrap();
        assert_eq!(GenerateOptions::default().resolve(&config).unwrap().sampling, None);
    }
}

#[test]
fn values_of_the_file_that_draws_cannot_use_are_refused_by_key() {
    for (value, expected) in [
        (r#""top_k": -7"#, "`top_k` is -7, expected a positive integer, or 0 or -1 for all"),
        (r#""top_k": 2.5"#, "`top_k` is 2.5, expected an integer"),
        (r#""top_p": -0.5"#, "`top_p` is -0.5, expected at least 0 and at most 1"),
        (r#""top_p": "all""#, "`top_p` is \"all\", expected a number"),
        (r#""min_p": 2"#, "`min_p` is 2, expected at least 0 and at most 1"),
        (r#""typical_p": 0"#, "`typical_p` is 0, expected above 0 and at most 1"),
        (r#""top_h": 9"#, "`top_h` is 9, expected above 0 and at most 1"),
        (
            r#""temperature": -2"#,
            "`temperature` is -2, expected a finite number above 0, or 0 for the most likely token",
        ),
    ] {
        let config = read(&format!(r#"{{"do_sample": true, {value}}}"#)).0.unwrap();
        let refused = GenerateOptions::default().resolve(&config).unwrap_err();
        assert_eq!(refused.to_string(), format!("generation_config.json: key {expected}"));
        // What the caller sets counts instead.
        let set = GenerateOptions {
            temperature: Some(1.0),
            top_k: Some(1),
            top_p: Some(1.0),
            min_p: Some(0.0),
            top_h: Some(1.0),
            typical_p: Some(1.0),
            ..GenerateOptions::default()
        };
        set.resolve(&config).unwrap();
    }
}

#[test]
fn values_that_transformers_takes_for_off_are_named() {
    for (key, value) in
        [("top_p", "1.5"), ("typical_p", "2"), ("epsilon_cutoff", "1"), ("eta_cutoff", "-0.5")]
    {
        let text = format!(r#"{{"do_sample": true, "{key}": {value}}}"#);
        let expected =
            format!("`{key}` is {value}, not a probability: it is off, as in transformers");
        check_warned(&text, &expected);
        let config = read(&text).0.unwrap();
        let sampling = GenerateOptions::default().resolve(&config).unwrap().sampling.unwrap();
        let off =
            (sampling.top_p, sampling.typical_p, sampling.epsilon_cutoff, sampling.eta_cutoff);
        assert_eq!(off, (1.0, 1.0, 0.0, 0.0));
    }
    check_warned(
        r#"{"do_sample": true, "temperature": 0.0}"#,
        "`temperature` is 0, which allows no draws: the most likely token is taken; set \
         `do_sample` to false to say so",
    );
}

#[test]
fn no_limit_is_written_in_several_ways() {
    for value in ["-1", "0"] {
        let config = read(&format!(r#"{{"do_sample": true, "top_k": {value}}}"#)).0.unwrap();
        let sampling = GenerateOptions::default().resolve(&config).unwrap().sampling.unwrap();
        assert_eq!(sampling.top_k, None);
    }
    let text = r#"{"do_sample": true, "min_p": null, "top_p": 1.0, "top_h": null}"#;
    let sampling = GenerateOptions::default().resolve(&read(text).0.unwrap()).unwrap().sampling;
    let sampling = sampling.unwrap();
    assert_eq!((sampling.min_p, sampling.top_p, sampling.top_h), (0.0, 1.0, None));
}

#[test]
fn values_that_transformers_refuses_are_refused_by_key() {
    for (text, expected) in [
        (r#"{"bad_words_ids": []}"#, "`bad_words_ids` is [], expected at least one list"),
        (r#"{"sequence_bias": []}"#, "`sequence_bias` is [], expected at least one list"),
        (r#"{"sequence_bias": [[[], 1.0]]}"#, "`sequence_bias` is [([], 1.0)], expected"),
        (r#"{"repetition_penalty": 0}"#, "`repetition_penalty` is 0, expected a finite number"),
        (r#"{"encoder_repetition_penalty": -1}"#, "`encoder_repetition_penalty` is -1, expected"),
        (r#"{"max_new_tokens": 0}"#, "`max_new_tokens` is 0, expected at least 1"),
        (r#"{"stop_strings": ["a", ""]}"#, "`stop_strings` is \"\", expected texts"),
        (
            r#"{"suppress_tokens": [3, 4], "forced_eos_token_id": [4]}"#,
            "`forced_eos_token_id` is [4], expected a token that `suppress_tokens` does not rule",
        ),
        (
            r#"{"suppress_tokens": [3], "forced_bos_token_id": 3}"#,
            "`forced_bos_token_id` is [3], expected a token that `suppress_tokens` does not rule",
        ),
    ] {
        let refused = GenerateOptions::default().resolve(&read(text).0.unwrap()).unwrap_err();
        let refused = refused.to_string();
        let expected = format!("generation_config.json: key {expected}");
        assert!(refused.starts_with(&expected), "{refused}");
    }
    for text in [
        r#"{"bad_words_ids": [[-1]]}"#,
        r#"{"bad_words_ids": [3]}"#,
        r#"{"sequence_bias": [[3, 1.0]]}"#,
        r#"{"max_new_tokens": -1}"#,
        r#"{"stop_strings": 3}"#,
        r#"{"do_sample": "yes"}"#,
        r#"{"exponential_decay_length_penalty": 3}"#,
    ] {
        let refused = read(text).0.unwrap_err().to_string();
        assert!(refused.starts_with("generation_config.json: key `"), "{refused}");
    }
}

#[test]
fn older_checkpoints_have_the_keys_in_config_json() {
    let model = r#"{"hidden_size": 8, "repetition_penalty": 1.2, "num_beams": 3}"#;
    let model = Config::parse("config.json", model).unwrap();
    let mut warnings = Warnings::default();
    let config = GenerationConfig::read(None, Some(&model), None, &mut warnings).unwrap();
    assert_eq!(config.repetition_penalty, Some(1.2));
    let warnings: Vec<_> = warnings.iter().collect();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("config.json: `num_beams` is 3"), "{}", warnings[0]);
    assert_eq!(model.unread(), ["hidden_size"]);

    let file = Config::parse("generation_config.json", r#"{"top_k": 5}"#).unwrap();
    let mut warnings = Warnings::default();
    let config = GenerationConfig::read(Some(&file), Some(&model), None, &mut warnings).unwrap();
    assert_eq!(config.repetition_penalty, None, "generation_config.json is instead of config.json");
    assert!(warnings.is_empty());
}

#[test]
fn stop_strings_are_one_or_a_list() {
    assert_eq!(read(r#"{"stop_strings": "a"}"#).0.unwrap().stop_strings, ["a"]);
    let config = read(r#"{"stop_strings": ["a", "b"]}"#).0.unwrap();
    let stops = |options: GenerateOptions| options.resolve(&config).unwrap().stop_strings;
    assert_eq!(stops(GenerateOptions::default()), ["a", "b"]);
    let own = GenerateOptions { stop_strings: vec!["c".into()], ..GenerateOptions::default() };
    assert_eq!(stops(own), ["c"]);
}

#[test]
fn end_tokens_are_one_or_a_list() {
    let eos = |text| read(text).0.unwrap().eos_token_id;
    assert_eq!(eos(r#"{"eos_token_id": 2}"#), [2]);
    assert_eq!(eos(r#"{"eos_token_id": [2, -1, 0]}"#), [2, 0]);
    assert_eq!(read(r#"{"pad_token_id": -1}"#).0.unwrap().pad_token_id, None);
    assert_eq!(
        read(r#"{"eos_token_id": "</s>"}"#).0.unwrap_err().to_string(),
        "generation_config.json: key `eos_token_id` is \"</s>\", expected a token id or a list of \
         them"
    );
}

#[test]
fn end_tokens_of_config_json_count_without_the_file_only() {
    let read = |file: Option<&str>| {
        let file = file.map(|text| Config::parse("generation_config.json", text).unwrap());
        let (model_eos, mut warnings) = (Some(TokenIds(vec![7])), Warnings::default());
        let config = GenerationConfig::read(file.as_ref(), None, model_eos, &mut warnings).unwrap();
        (config.eos_token_id, warnings.iter().map(str::to_owned).collect::<Vec<_>>())
    };
    assert_eq!(read(None), (vec![7], vec![]));
    assert_eq!(read(Some(r#"{"eos_token_id": 2}"#)), (vec![2], vec![]));
    for file in ["{}", r#"{"eos_token_id": null}"#, r#"{"eos_token_id": -1}"#] {
        let warning = "generation_config.json: `eos_token_id` is not set, so that no token ends a \
            text; that of config.json ([7]) counts for models without this file only, as in \
            transformers: add it here";
        assert_eq!(read(Some(file)), (vec![], vec![warning.to_owned()]));
    }
}
