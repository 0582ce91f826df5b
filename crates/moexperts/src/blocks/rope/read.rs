//! Rotary embeddings as `config.json` says them.

use super::angles::{Rope, RopeScaling};
use crate::{
    config::Config,
    error::{Error, Result},
};

/// The kinds `rope_type` may name.
const KNOWN: &str = "`default`, `linear`, `dynamic`, `yarn`, `llama3`";

/// No head turns more values: a frequency is made for each pair of them.
const MAX_DIMS: usize = 1 << 16;

/// The key of the context that the model was trained with, before stretching.
const ORIGINAL: &str = "original_max_position_embeddings";

/// The object of either dialect: `rope_scaling`, or else `rope_parameters`.
pub(crate) fn rope_parameters(config: &Config) -> Result<Option<Config>> {
    match config.sub("rope_scaling")? {
        Some(scaling) => Ok(Some(scaling)),
        None => config.sub("rope_parameters"),
    }
}

impl Rope {
    /// Reads both dialects: `rope_theta` with `rope_scaling`, and `rope_parameters`.
    ///
    /// - `head_dim`: width of a head
    /// - `partial`: `partial_rotary_factor` where it is absent: the part of a head that turns
    ///
    /// # Errors
    /// [`Error::Config`] for a kind that is not known or a missing or impossible value.
    pub fn read(
        config: &Config,
        head_dim: usize,
        partial: f64,
        default_theta: f64,
    ) -> Result<Self> {
        let max_position_embeddings: usize = config.required("max_position_embeddings")?;
        if max_position_embeddings == 0 {
            return Err(config.refused("max_position_embeddings", "a positive integer"));
        }
        let parameters = rope_parameters(config)?;
        let theta = match &parameters {
            Some(parameters) => parameters.optional("rope_theta")?,
            None => None,
        };
        let rope_theta = match theta {
            Some(theta) => theta,
            None => config.or("rope_theta", default_theta)?,
        };
        let factor = "partial_rotary_factor";
        let inner = parameters.as_ref().map(|parameters| parameters.optional(factor));
        let partial = match inner.transpose()?.flatten() {
            Some(partial) => partial,
            None => config.or(factor, partial)?,
        };
        if !(partial > 0.0 && partial <= 1.0) {
            let problem = format!(
                "the rotary embedding turns {partial} of a head, expected more than 0 and at most 1"
            );
            return Err(Error::Config { file: config.file().to_owned(), problem });
        }
        let dims = (head_dim as f64 * partial) as usize;
        let scaling = match &parameters {
            Some(parameters) => read_scaling(config, parameters, max_position_embeddings)?,
            None => RopeScaling::Default,
        };
        if !(2..=MAX_DIMS).contains(&dims)
            || !dims.is_multiple_of(2)
            || rope_theta.is_nan()
            || rope_theta <= 0.0
        {
            return Err(Error::Config {
                file: config.file().to_owned(),
                problem: format!(
                    "rotary embedding of {dims} values with base {rope_theta} is impossible, \
                     expected an even number of values up to {MAX_DIMS} and a positive base"
                ),
            });
        }
        let mrope_section = None;
        let rope = Self { dims, rope_theta, max_position_embeddings, scaling, mrope_section };
        // Each value may be possible and together they may not: a base of 1 has no wavelengths.
        if rope.inv_freq(max_position_embeddings).iter().any(|frequency| !frequency.is_finite()) {
            let problem = format!(
                "the rotary embedding with base {rope_theta} and {:?} has no finite frequencies",
                rope.scaling
            );
            return Err(Error::Config { file: config.file().to_owned(), problem });
        }
        Ok(rope)
    }
}

fn read_scaling(config: &Config, parameters: &Config, max: usize) -> Result<RopeScaling> {
    let kind = match parameters.optional::<String>("rope_type")? {
        Some(kind) => kind,
        None => parameters.or("type", "default".to_owned())?,
    };
    let original = || -> Result<f64> {
        match config.optional(ORIGINAL)? {
            Some(original) => Ok(original),
            None => parameters.or(ORIGINAL, max as f64),
        }
    };
    let positive = |key: &str, value: f64| {
        if value > 0.0 && value.is_finite() {
            return Ok(value);
        }
        let problem = format!("key `{key}` is {value}, expected a positive number");
        Err(Error::Config { file: parameters.file().to_owned(), problem })
    };
    let required = |key: &str| positive(key, parameters.required(key)?);
    match kind.as_str() {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear { factor: required("factor")? }),
        "dynamic" => Ok(RopeScaling::Dynamic { factor: required("factor")? }),
        "yarn" => {
            let original = positive(ORIGINAL, original()?)?;
            let factor = parameters.optional("factor")?.unwrap_or(max as f64 / original);
            let factor = positive("factor", factor)?;
            let nonzero = |key: &str| -> Result<Option<f64>> {
                Ok(parameters.optional(key)?.filter(|&value: &f64| value != 0.0))
            };
            let attention_factor = match parameters.optional("attention_factor")? {
                Some(factor) => factor,
                None => match (nonzero("mscale")?, nonzero("mscale_all_dim")?) {
                    (Some(mscale), Some(all)) => magnitude(factor, mscale) / magnitude(factor, all),
                    _ => magnitude(factor, 1.0),
                },
            };
            let rotations = |key: &str, default| positive(key, nonzero(key)?.unwrap_or(default));
            Ok(RopeScaling::Yarn {
                factor,
                original_max_position_embeddings: original,
                beta_fast: rotations("beta_fast", 32.0)?,
                beta_slow: rotations("beta_slow", 1.0)?,
                attention_factor: positive("attention_factor", attention_factor)?,
                truncate: parameters.or("truncate", true)?,
            })
        }
        "llama3" => {
            let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
            if low >= high {
                let expected = format!("less than `high_freq_factor`, {high}");
                return Err(parameters.refused("low_freq_factor", &expected));
            }
            Ok(RopeScaling::Llama3 {
                factor: required("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: positive(ORIGINAL, original()?)?,
            })
        }
        _ => Err(Error::Config {
            file: parameters.file().to_owned(),
            problem: format!("rope_type `{kind}` is not known, expected one of {KNOWN}"),
        }),
    }
}

/// YaRN's correction of the attention's temperature.
fn magnitude(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}

#[cfg(test)]
mod tests {
    use moexperts_core::{Batch, Span};
    use proptest::prelude::*;

    use super::*;
    use crate::blocks::Angles;

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
            let Ok(rope) = Rope::read(&config, head_dim, partial, 1e4) else { return Ok(()) };
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
            let rope = Rope::read(&config, head_dim, 1.0, 10_000.0).unwrap();
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
        let mut rope = Rope::read(&config, 16, 1.0, 1e4).unwrap();
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
        let error = Rope::read(&config, 4, 1.0, 1e4).unwrap_err();
        assert!(error.to_string().ends_with(
            "rope_type `su` is not known, \
             expected one of `default`, `linear`, `dynamic`, `yarn`, `llama3`"
        ));
    }
}
