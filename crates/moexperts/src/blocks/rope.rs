//! Rotary position embedding and its scaling variants, after transformers'
//! `modeling_rope_utils.py`.

use std::f64::consts::PI;

use moexperts_core::Batch;

use crate::{
    config::Config,
    error::{Error, Result},
    prompt::Position,
};

/// How positions become angles.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Values of a head that turn; those after them pass as they are.
    pub dims: usize,
    /// Base of the wavelengths.
    pub rope_theta: f64,
    /// `max_position_embeddings`.
    pub max_position_embeddings: usize,
    /// How wavelengths are stretched for longer contexts.
    pub scaling: RopeScaling,
    /// Pairs of a head that turn by time, height and width, interleaved from the first on; where
    /// it is absent, and beyond, all turn by time.
    pub mrope_section: Option<[usize; 3]>,
}

/// How wavelengths are stretched for longer contexts.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All by the same factor.
    Linear {
        /// Stretch.
        factor: f64,
    },
    /// By a larger base once a sequence is longer than the model was made for (NTK).
    Dynamic {
        /// Stretch.
        factor: f64,
    },
    /// Long wavelengths by the factor, short ones not, a ramp between (<https://arxiv.org/abs/2309.00071>).
    Yarn {
        /// Stretch.
        factor: f64,
        /// Context before stretching.
        original_max_position_embeddings: f64,
        /// Rotations above which a wavelength stays.
        beta_fast: f64,
        /// Rotations below which a wavelength is stretched.
        beta_slow: f64,
        /// Factor on cosines and sines.
        attention_factor: f64,
        /// Whether the ramp's ends are rounded outwards.
        truncate: bool,
    },
    /// As Llama 3.1: a ramp between two wavelengths.
    Llama3 {
        /// Stretch.
        factor: f64,
        /// Wavelengths above context / this are stretched.
        low_freq_factor: f64,
        /// Wavelengths below context / this stay.
        high_freq_factor: f64,
        /// Context before stretching.
        original_max_position_embeddings: f64,
    },
}

/// Cosines and sines [T, dims / 2], row-major, and the frequencies they were made with.
#[derive(Debug, Default)]
pub(crate) struct Angles {
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
    inv_freq: Vec<f64>,
    inv_freq_of: Option<usize>,
}

/// The kinds `rope_type` may name.
const KNOWN: &str = "`default`, `linear`, `dynamic`, `yarn`, `llama3`";

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
        let parameters = match config.sub("rope_scaling")? {
            Some(scaling) => Some(scaling),
            None => config.sub("rope_parameters")?,
        };
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
        if dims < 2 || !dims.is_multiple_of(2) || rope_theta.is_nan() || rope_theta <= 0.0 {
            return Err(Error::Config {
                file: config.file().to_owned(),
                problem: format!(
                    "rotary embedding of {dims} values with base {rope_theta} is impossible, \
                     expected an even number of values and a positive base"
                ),
            });
        }
        let mrope_section = None;
        Ok(Self { dims, rope_theta, max_position_embeddings, scaling, mrope_section })
    }

    /// Radians a position, for each pair of values, for a sequence of `tokens` tokens in all.
    pub fn inv_freq(&self, tokens: usize) -> Vec<f64> {
        let plain = |theta: f64| {
            let exponent = |pair: usize| (2 * pair) as f64 / self.dims as f64;
            (0..self.dims / 2).map(move |pair| theta.powf(-exponent(pair)))
        };
        match self.scaling {
            RopeScaling::Default => plain(self.rope_theta).collect(),
            RopeScaling::Linear { factor } => {
                plain(self.rope_theta).map(|freq| freq / factor).collect()
            }
            RopeScaling::Dynamic { factor } => {
                let (max, width) = (self.max_position_embeddings as f64, self.dims as f64);
                let length = max.max(tokens as f64);
                let stretch = factor * length / max - (factor - 1.0);
                plain(self.rope_theta * stretch.powf(width / (width - 2.0))).collect()
            }
            RopeScaling::Yarn { factor, .. } => {
                let (low, high) = self.yarn_ramp();
                let blend = |(pair, freq): (usize, f64)| {
                    let stretched = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    freq / factor * stretched + freq * (1.0 - stretched)
                };
                plain(self.rope_theta).enumerate().map(blend).collect()
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original,
            } => plain(self.rope_theta)
                .map(|freq| {
                    let rotations = original * freq / (2.0 * PI);
                    let kept = (rotations - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let kept = kept.clamp(0.0, 1.0);
                    (1.0 - kept) * freq / factor + kept * freq
                })
                .collect(),
        }
    }

    /// Factor on cosines and sines.
    pub fn attention_scaling(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }

    /// Cosines and sines of every row of a batch at its position.
    pub(crate) fn angles(&self, batch: &Batch, positions: &[Position], out: &mut Angles) {
        out.cos.clear();
        out.sin.clear();
        let scaling = self.attention_scaling();
        for (span, rows) in batch.rows() {
            let length = self.stretched_length(span.start + span.tokens);
            if out.inv_freq_of != Some(length) {
                out.inv_freq = self.inv_freq(length);
                out.inv_freq_of = Some(length);
            }
            for position in &positions[rows] {
                for (pair, freq) in out.inv_freq.iter().enumerate() {
                    let (s, c) = (position[self.axis(pair)] as f64 * freq).sin_cos();
                    out.cos.push((c * scaling) as f32);
                    out.sin.push((s * scaling) as f32);
                }
            }
        }
    }

    /// The length of a sequence of `tokens` tokens that its frequencies depend on.
    fn stretched_length(&self, tokens: usize) -> usize {
        match self.scaling {
            RopeScaling::Dynamic { .. } => tokens.max(self.max_position_embeddings),
            _ => 0,
        }
    }

    /// Whether a pair turns by time (0), height (1) or width (2).
    fn axis(&self, pair: usize) -> usize {
        let axis = pair % 3;
        match self.mrope_section {
            Some(section) if axis > 0 && pair < 3 * section[axis] => axis,
            _ => 0,
        }
    }

    /// The pairs between which YaRN's stretch grows from none to all.
    fn yarn_ramp(&self) -> (f64, f64) {
        let RopeScaling::Yarn {
            original_max_position_embeddings: original,
            beta_fast,
            beta_slow,
            truncate,
            ..
        } = self.scaling
        else {
            return (0.0, 0.0);
        };
        let width = self.dims as f64;
        let pair_with = |rotations: f64| {
            width * (original / (rotations * 2.0 * PI)).ln() / (2.0 * self.rope_theta.ln())
        };
        let (low, high) = (pair_with(beta_fast), pair_with(beta_slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(width - 1.0));
        if low == high { (low, high + 0.001) } else { (low, high) }
    }
}

fn read_scaling(config: &Config, parameters: &Config, max: usize) -> Result<RopeScaling> {
    let kind = match parameters.optional::<String>("rope_type")? {
        Some(kind) => kind,
        None => parameters.or("type", "default".to_owned())?,
    };
    let original = || -> Result<f64> {
        let key = "original_max_position_embeddings";
        match config.optional(key)? {
            Some(original) => Ok(original),
            None => parameters.or(key, max as f64),
        }
    };
    let positive = |key: &str, value: f64| {
        if value > 0.0 && value.is_finite() {
            return Ok(value);
        }
        let problem = format!("key `{key}` is {value}, expected a positive number");
        Err(Error::Config { file: parameters.file().to_owned(), problem })
    };
    let factor = || positive("factor", parameters.required("factor")?);
    match kind.as_str() {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
        "dynamic" => Ok(RopeScaling::Dynamic { factor: factor()? }),
        "yarn" => {
            let original = positive("original_max_position_embeddings", original()?)?;
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
            Ok(RopeScaling::Yarn {
                factor,
                original_max_position_embeddings: original,
                beta_fast: nonzero("beta_fast")?.unwrap_or(32.0),
                beta_slow: nonzero("beta_slow")?.unwrap_or(1.0),
                attention_factor,
                truncate: parameters.or("truncate", true)?,
            })
        }
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: factor()?,
            low_freq_factor: parameters.required("low_freq_factor")?,
            high_freq_factor: parameters.required("high_freq_factor")?,
            original_max_position_embeddings: original()?,
        }),
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
    use super::*;

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
