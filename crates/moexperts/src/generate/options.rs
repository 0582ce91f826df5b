//! The options of a generation, and their values once the model's defaults are filled in.

use std::hash::{BuildHasher, Hasher, RandomState};

use serde::{Deserialize, Deserializer};

use crate::{
    config::Config,
    error::{Error, Result},
};

/// The options of a generation.
///
/// `None` takes the value of the model's `generation_config.json`, and where that has none, the
/// default given here, which is that of transformers.
///
/// Setting `temperature` (other than 0), `top_k`, `top_p` or `min_p` here turns sampling on, unless
/// `do_sample` is `Some(false)`. The same values in `generation_config.json` do nothing until
/// sampling is turned on.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// The most tokens to generate, at least 1; 128.
    pub max_new_tokens: Option<usize>,
    /// Draw tokens at random instead of taking the most likely; false.
    pub do_sample: Option<bool>,
    /// Divides the logits before a draw; 0 takes the most likely token whatever `do_sample` says;
    /// 1.
    pub temperature: Option<f32>,
    /// Draws among this many most likely tokens, and those as likely as the last; 0 is off; 50.
    pub top_k: Option<usize>,
    /// Draws among the fewest most likely tokens that have this probability together, above 0 up
    /// to 1; 1, which is off.
    pub top_p: Option<f32>,
    /// Draws among tokens at least this many times as likely as the most likely, 0 to 1; off.
    pub min_p: Option<f32>,
    /// Makes tokens of the prompt and the text so far less likely, above 0; 1, which is off.
    pub repetition_penalty: Option<f32>,
    /// Repeats the draws of another run; a fresh one each time.
    pub seed: Option<u64>,
    /// The tokens that end a text.
    pub eos_token_id: Option<Vec<u32>>,
    /// Texts that end a text where they appear; they are not part of it.
    pub stop_strings: Vec<String>,
    /// Goes on past the tokens that end a text.
    pub ignore_eos: bool,
    /// On a GPU, runs experts on `grouped_mm` as `batched_mm` while decoding; true.
    pub decode_switch: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: None,
            do_sample: None,
            temperature: None,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: None,
            seed: None,
            eos_token_id: None,
            stop_strings: Vec::new(),
            ignore_eos: false,
            decode_switch: true,
        }
    }
}

/// What a model's files say about generation.
///
/// `max_length` and the kinds of search that are not here (beams, contrastive) are not read.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct GenerationConfig {
    /// `max_new_tokens`.
    pub max_new_tokens: Option<usize>,
    /// `do_sample`.
    pub do_sample: Option<bool>,
    /// `temperature`.
    pub temperature: Option<f32>,
    /// `top_k`.
    pub top_k: Option<usize>,
    /// `top_p`.
    pub top_p: Option<f32>,
    /// `min_p`.
    pub min_p: Option<f32>,
    /// `repetition_penalty`.
    pub repetition_penalty: Option<f32>,
    /// `bos_token_id`.
    pub bos_token_id: Option<u32>,
    /// `pad_token_id`.
    pub pad_token_id: Option<u32>,
    /// `eos_token_id`; empty if there is none.
    pub eos_token_id: Vec<u32>,
}

impl GenerationConfig {
    /// Reads `generation_config.json`, where the model has one.
    ///
    /// - `model_eos`: `eos_token_id` of `config.json`, for a file that has none
    ///
    /// # Errors
    /// [`Error::Config`] if a value is not of its type.
    pub fn read(file: Option<&Config>, model_eos: Option<TokenIds>) -> Result<Self> {
        let model_eos = model_eos.map_or_else(Vec::new, |ids| ids.0);
        let Some(file) = file else {
            return Ok(Self { eos_token_id: model_eos, ..Self::default() });
        };
        let first = |key: &str| -> Result<Option<u32>> {
            Ok(file.optional::<TokenIds>(key)?.and_then(|ids| ids.0.first().copied()))
        };
        Ok(Self {
            max_new_tokens: file.optional("max_new_tokens")?,
            do_sample: file.optional("do_sample")?,
            temperature: file.optional("temperature")?,
            top_k: file.optional("top_k")?,
            top_p: file.optional("top_p")?,
            min_p: file.optional("min_p")?,
            repetition_penalty: file.optional("repetition_penalty")?,
            bos_token_id: first("bos_token_id")?,
            pad_token_id: first("pad_token_id")?,
            eos_token_id: file.optional("eos_token_id")?.map_or(model_eos, |ids: TokenIds| ids.0),
        })
    }
}

/// Token ids as the files write them: one, or a list; negative ones are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenIds(pub Vec<u32>);

impl<'de> Deserialize<'de> for TokenIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "invalid type, expected a token id or a list of them")]
        enum Written {
            One(i64),
            Several(Vec<i64>),
        }
        let ids = match Written::deserialize(deserializer)? {
            Written::One(id) => vec![id],
            Written::Several(ids) => ids,
        };
        Ok(Self(ids.into_iter().filter_map(|id| u32::try_from(id).ok()).collect()))
    }
}

/// [`GenerateOptions`] with every gap filled and every value checked.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedOptions {
    /// The most tokens to generate, at least 1.
    pub max_new_tokens: usize,
    /// How tokens are drawn; `None` takes the most likely.
    pub sampling: Option<Sampling>,
    /// Above 0; 1 is off.
    pub repetition_penalty: f32,
    /// The seed of the draws, drawn itself if the user set none: with it the run can be repeated.
    pub seed: u64,
    /// The tokens that end a text; empty if they are ignored.
    pub eos_token_id: Vec<u32>,
    /// Texts that end a text, none of them empty.
    pub stop_strings: Vec<String>,
    /// On a GPU, run experts on `grouped_mm` as `batched_mm` while decoding.
    pub decode_switch: bool,
}

/// The ways to narrow a draw, in the order in which they apply.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; above 0.
    pub temperature: f32,
    /// How many most likely tokens stay; `None` is all.
    pub top_k: Option<usize>,
    /// The probability that has to stay; 1 is all.
    pub top_p: f32,
    /// The least probability relative to the most likely token; 0 is all.
    pub min_p: f32,
}

impl GenerateOptions {
    /// Fills what is not set from the model's files or the defaults, and checks the values.
    ///
    /// # Errors
    /// [`Error::Option`] for a value out of its range, wherever it came from.
    pub fn resolve(&self, model: &GenerationConfig) -> Result<ResolvedOptions> {
        let max_new_tokens = self.max_new_tokens.or(model.max_new_tokens).unwrap_or(128);
        if max_new_tokens == 0 {
            return Err(refused("max_new_tokens", 0, "at least 1"));
        }
        if self.stop_strings.iter().any(String::is_empty) {
            return Err(refused("stop_strings", "\"\"", "texts that are not empty"));
        }
        let eos_token_id = if self.ignore_eos {
            Vec::new()
        } else {
            self.eos_token_id.clone().unwrap_or_else(|| model.eos_token_id.clone())
        };
        let penalty = self.repetition_penalty.or(model.repetition_penalty).unwrap_or(1.0);
        Ok(ResolvedOptions {
            max_new_tokens,
            sampling: self.sampling(model)?,
            repetition_penalty: within(
                "repetition_penalty",
                penalty,
                penalty > 0.0 && penalty.is_finite(),
                "a finite number above 0",
            )?,
            seed: self.seed.unwrap_or_else(fresh_seed),
            eos_token_id,
            stop_strings: self.stop_strings.clone(),
            decode_switch: self.decode_switch,
        })
    }

    fn sampling(&self, model: &GenerationConfig) -> Result<Option<Sampling>> {
        let temperature = self.temperature.or(model.temperature).unwrap_or(1.0);
        let top_p = self.top_p.or(model.top_p).unwrap_or(1.0);
        let min_p = self.min_p.or(model.min_p).unwrap_or(0.0);
        let sampling = Sampling {
            temperature: within(
                "temperature",
                temperature,
                temperature >= 0.0 && temperature.is_finite(),
                "a finite number above 0, or 0 for the most likely token",
            )?,
            top_k: Some(self.top_k.or(model.top_k).unwrap_or(50)).filter(|&top_k| top_k > 0),
            top_p: within("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0 and at most 1")?,
            min_p: within(
                "min_p",
                min_p,
                (0.0..=1.0).contains(&min_p),
                "at least 0 and at most 1",
            )?,
        };
        let do_sample = self
            .do_sample
            .unwrap_or_else(|| self.narrows_a_draw() || model.do_sample.unwrap_or(false));
        Ok((do_sample && temperature > 0.0).then_some(sampling))
    }

    /// Whether a value is set that means something for draws only.
    fn narrows_a_draw(&self) -> bool {
        self.temperature.is_some()
            || self.top_k.is_some()
            || self.top_p.is_some()
            || self.min_p.is_some()
    }
}

fn within(option: &'static str, value: f32, allowed: bool, expected: &str) -> Result<f32> {
    if allowed { Ok(value) } else { Err(refused(option, value, expected)) }
}

fn refused(option: &'static str, got: impl ToString, expected: &str) -> Error {
    Error::Option { option, got: got.to_string(), expected: expected.into() }
}

/// A seed that differs from run to run: the standard library draws its hash keys at random.
fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests;
