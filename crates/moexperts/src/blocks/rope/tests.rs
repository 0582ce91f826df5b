//! Rotary embeddings against transformers.

use moexperts_core::{Batch, Span};
use proptest::prelude::*;

use super::{Angles, Rope, RopeDefaults};
use crate::config::Config;

const DEFAULTS: RopeDefaults = RopeDefaults {
    rope_theta: 1e4,
    max_position_embeddings: 2048,
    partial_rotary_factor: None,
    parameters: None,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn angles_are_on_the_unit_circle_for_every_size_that_is_read(
        head_dim in 0_usize..70,
        partial in 0.01..1.0_f64,
        theta in prop_oneof![Just(1.0), Just(10_000.0), 1e-3..1e9_f64],
        scaling in prop::sample::select(&[
            r#"{"rope_type": "default"}"#,
            r#"{"rope_type": "linear", "factor": 0.5}"#,
            r#"{"rope_type": "dynamic", "factor": 4}"#,
            r#"{"rope_type": "yarn", "factor": 40, "attention_factor": 1}"#,
            r#"{"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
                "high_freq_factor": 4}"#,
        ][..]),
        context in 1_usize..50,
        tokens in 0_usize..9,
    ) {
        let text = format!(
            r#"{{"max_position_embeddings": {context}, "rope_theta": {theta},
                "rope_scaling": {scaling}}}"#
        );
        let config = Config::parse("config.json", &text).unwrap();
        let defaults = RopeDefaults { partial_rotary_factor: Some(partial), ..DEFAULTS };
        let Ok(rope) = Rope::read(&config, head_dim, &defaults) else { return Ok(()) };
        let batch = Batch::new(vec![Span { sequence: 0, start: 3, tokens }]);
        let positions: Vec<_> = (0..tokens).map(|token| [token + 3; 3]).collect();
        let mut angles = Angles::default();
        rope.angles(&batch, &positions, &mut angles);
        prop_assert_eq!(angles.cos.len(), tokens * rope.dims / 2);
        for (cos, sin) in angles.cos.iter().zip(&angles.sin) {
            prop_assert!((cos * cos + sin * sin - 1.0).abs() < 1e-5, "{} {}", cos, sin);
        }
    }
}

#[test]
fn every_variant_has_transformers_frequencies() {
    let text = std::fs::read_to_string("../../testdata/rope.json").unwrap();
    let cases: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases = cases.as_array().unwrap();
    assert!(cases.len() > 15);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let config = Config::parse("config.json", &case["config"].to_string()).unwrap();
        let head_dim = config.required("head_dim").unwrap();
        let rope = Rope::read(&config, head_dim, &DEFAULTS).unwrap();
        let tokens = case["seq_len"].as_u64().unwrap_or(0) as usize;
        let expected = case["inv_freq"].as_array().unwrap();
        let got = rope.inv_freq(tokens);
        assert_eq!(got.len(), expected.len(), "{name}");
        for (got, expected) in got.iter().zip(expected) {
            let expected = expected.as_f64().unwrap();
            assert!((got - expected).abs() <= 1e-9 * expected, "{name}: {got}, {expected}");
        }
        let scaling = case["attention_scaling"].as_f64().unwrap();
        assert!((rope.attention_scaling() - scaling).abs() < 1e-12, "{name}");
    }
}

#[test]
fn pairs_turn_by_time_height_and_width_in_turn_as_far_as_the_sections_reach() {
    let text = r#"{"max_position_embeddings": 8}"#;
    let config = Config::parse("config.json", text).unwrap();
    let mut rope = Rope::read(&config, 16, &DEFAULTS).unwrap();
    let axes = |rope: &Rope| (0..8).map(|pair| rope.axis(pair)).collect::<Vec<_>>();
    assert_eq!(axes(&rope), [0; 8]);
    rope.mrope_section = Some([4, 2, 2]);
    assert_eq!(axes(&rope), [0, 1, 2, 0, 1, 2, 0, 0]);
    rope.mrope_section = Some([5, 2, 1]);
    assert_eq!(axes(&rope), [0, 1, 2, 0, 1, 0, 0, 0]);
}

#[test]
fn an_unknown_kind_is_an_error_that_lists_the_known() {
    let text = r#"{"max_position_embeddings": 8, "rope_scaling": {"type": "su"}}"#;
    let config = Config::parse("config.json", text).unwrap();
    let error = Rope::read(&config, 4, &DEFAULTS).unwrap_err();
    assert!(error.to_string().ends_with(
        "rope_type `su` is not known, \
         expected one of `default`, `linear`, `dynamic`, `yarn`, `longrope`, `llama3`, \
         `proportional`; write `longrope` if that is meant"
    ));
}
