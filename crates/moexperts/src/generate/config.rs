//! What a model's files say about generation.

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    config::Config,
    error::{Error, Result},
    warnings::Warnings,
};

/// What a model's files say about generation: the keys of `generation_config.json` that are obeyed.
///
/// `None` is a key that is not set. What a value does is said at the field of the same name in
/// [`GenerateOptions`](crate::GenerateOptions).
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct GenerationConfig {
    /// `max_length`.
    pub max_length: Option<usize>,
    /// `max_new_tokens`.
    pub max_new_tokens: Option<usize>,
    /// `min_length`.
    pub min_length: Option<usize>,
    /// `min_new_tokens`.
    pub min_new_tokens: Option<usize>,
    /// `max_time`, in seconds.
    pub max_time: Option<f64>,
    /// `stop_strings`; empty if there are none.
    pub stop_strings: Vec<String>,
    /// `do_sample`.
    pub do_sample: Option<bool>,
    /// `temperature`.
    pub temperature: Option<f32>,
    /// `top_k`; 0 is no limit, and so is -1 in the file.
    pub top_k: Option<usize>,
    /// `top_p`.
    pub top_p: Option<f32>,
    /// `min_p`.
    pub min_p: Option<f32>,
    /// `top_h`.
    pub top_h: Option<f32>,
    /// `typical_p`.
    pub typical_p: Option<f32>,
    /// `epsilon_cutoff`.
    pub epsilon_cutoff: Option<f32>,
    /// `eta_cutoff`.
    pub eta_cutoff: Option<f32>,
    /// `repetition_penalty`.
    pub repetition_penalty: Option<f32>,
    /// `encoder_repetition_penalty`.
    pub encoder_repetition_penalty: Option<f32>,
    /// `no_repeat_ngram_size`.
    pub no_repeat_ngram_size: Option<usize>,
    /// `encoder_no_repeat_ngram_size`.
    pub encoder_no_repeat_ngram_size: Option<usize>,
    /// `bad_words_ids`.
    pub bad_words_ids: Option<Vec<Vec<u32>>>,
    /// `sequence_bias`.
    pub sequence_bias: Option<Vec<(Vec<u32>, f32)>>,
    /// `suppress_tokens`.
    pub suppress_tokens: Option<Vec<u32>>,
    /// `begin_suppress_tokens`.
    pub begin_suppress_tokens: Option<Vec<u32>>,
    /// `forced_bos_token_id`.
    pub forced_bos_token_id: Option<u32>,
    /// `forced_eos_token_id`.
    pub forced_eos_token_id: Option<Vec<u32>>,
    /// `exponential_decay_length_penalty`.
    pub exponential_decay_length_penalty: Option<(usize, f64)>,
    /// `remove_invalid_values`.
    pub remove_invalid_values: Option<bool>,
    /// `bos_token_id`.
    pub bos_token_id: Option<u32>,
    /// `pad_token_id`.
    pub pad_token_id: Option<u32>,
    /// `eos_token_id`; empty if there is none.
    pub eos_token_id: Vec<u32>,
    /// The file, for errors.
    pub(crate) file: String,
    /// Keys that only draws read, whose values are not of their type, and what is wrong.
    pub(super) refused: Vec<(&'static str, String)>,
}

impl GenerationConfig {
    /// Reads `generation_config.json`, where the model has one, and otherwise the same keys of
    /// `config.json`, where older checkpoints have them.
    ///
    /// - `model_eos`: `eos_token_id` of `config.json`; as in transformers, it ends no text of a model
    ///   with a `generation_config.json`, and that is a warning where the file has none
    ///
    /// A key that would change the text and is not supported is a warning, and so is an unknown one.
    /// Values that only draws read are checked when tokens are drawn.
    ///
    /// # Errors
    /// [`Error::Config`] if a value is not of its type.
    pub fn read(
        file: Option<&Config>,
        model: Option<&Config>,
        model_eos: Option<TokenIds>,
        warnings: &mut Warnings,
    ) -> Result<Self> {
        let model_eos = model_eos.map_or_else(Vec::new, |ids| ids.0);
        let Some(source) = file.or(model) else {
            return Ok(Self { eos_token_id: model_eos, ..Self::default() });
        };
        let mut config = Self::read_keys(source)?;
        config.read_draws(source);
        config.warn(source, warnings);
        if file.is_none() {
            config.eos_token_id = model_eos;
        } else if config.eos_token_id.is_empty() && !model_eos.is_empty() {
            warnings.push(format_args!(
                "{}: `eos_token_id` is not set, so that no token ends a text; that of config.json \
                 ({model_eos:?}) counts for models without this file only, as in transformers: add \
                 it here",
                source.file()
            ));
        }
        for unsupported in UNSUPPORTED {
            unsupported.warn(source, &config, warnings);
        }
        if let Some(file) = file {
            for key in WITHOUT_EFFECT {
                file.contains(key);
            }
            for key in file.unread() {
                warnings.push(format_args!(
                    "{}: key `{key}` is unknown and has no effect; check how it is spelled",
                    file.file()
                ));
            }
        }
        Ok(config)
    }

    /// The keys that greedy generation reads too.
    fn read_keys(file: &Config) -> Result<Self> {
        let first = |key: &str| -> Result<Option<u32>> {
            Ok(file.optional::<TokenIds>(key)?.and_then(|ids| ids.0.first().copied()))
        };
        // Transformers takes a negative length for none.
        let count = |key: &str| -> Result<Option<usize>> {
            let count = file.optional::<i64>(key)?;
            Ok(count.map(|count| usize::try_from(count).unwrap_or(0)))
        };
        let ids = |key: &str| -> Result<Option<Vec<u32>>> {
            Ok(file.optional::<TokenIds>(key)?.map(|ids| ids.0))
        };
        let stop_strings = file.optional::<Texts>("stop_strings")?;
        Ok(Self {
            max_length: count("max_length")?,
            max_new_tokens: file.optional("max_new_tokens")?,
            min_length: count("min_length")?,
            min_new_tokens: count("min_new_tokens")?,
            max_time: file.optional("max_time")?,
            stop_strings: stop_strings.map_or_else(Vec::new, |texts| texts.0),
            do_sample: file.optional("do_sample")?,
            repetition_penalty: file.optional("repetition_penalty")?,
            encoder_repetition_penalty: file.optional("encoder_repetition_penalty")?,
            no_repeat_ngram_size: count("no_repeat_ngram_size")?,
            encoder_no_repeat_ngram_size: count("encoder_no_repeat_ngram_size")?,
            bad_words_ids: file.optional("bad_words_ids")?,
            sequence_bias: file.optional("sequence_bias")?,
            suppress_tokens: ids("suppress_tokens")?,
            begin_suppress_tokens: ids("begin_suppress_tokens")?,
            forced_bos_token_id: file.optional("forced_bos_token_id")?,
            forced_eos_token_id: ids("forced_eos_token_id")?,
            exponential_decay_length_penalty: file.optional("exponential_decay_length_penalty")?,
            remove_invalid_values: file.optional("remove_invalid_values")?,
            bos_token_id: first("bos_token_id")?,
            pad_token_id: first("pad_token_id")?,
            eos_token_id: ids("eos_token_id")?.unwrap_or_default(),
            file: file.file().to_owned(),
            ..Self::default()
        })
    }

    /// The keys that only draws read.
    fn read_draws(&mut self, file: &Config) {
        self.temperature = self.draw(file, "temperature");
        self.top_p = self.draw(file, "top_p");
        self.min_p = self.draw(file, "min_p");
        self.top_h = self.draw(file, "top_h");
        self.typical_p = self.draw(file, "typical_p");
        self.epsilon_cutoff = self.draw(file, "epsilon_cutoff");
        self.eta_cutoff = self.draw(file, "eta_cutoff");
        self.top_k = self.draw::<i64>(file, "top_k").and_then(|top_k| match top_k {
            // Files written for other servers have -1 for all tokens.
            -1 => Some(0),
            top_k => usize::try_from(top_k).ok().or_else(|| {
                let refused = file.refused("top_k", "a positive integer, or 0 or -1 for all");
                self.refused.push(("top_k", problem(refused)));
                None
            }),
        });
    }

    fn draw<T: DeserializeOwned>(&mut self, file: &Config, key: &'static str) -> Option<T> {
        file.optional(key).unwrap_or_else(|error| {
            self.refused.push((key, problem(error)));
            None
        })
    }

    /// Says which of two keys counts, and which values mean something else here than they seem to.
    fn warn(&self, file: &Config, warnings: &mut Warnings) {
        let file = file.file();
        for (loses, lost, counts, set) in [
            ("max_length", self.max_length, "max_new_tokens", self.max_new_tokens),
            ("min_length", self.min_length, "min_new_tokens", self.min_new_tokens),
        ] {
            if let (Some(lost), Some(set)) = (lost.filter(|&lost| lost > 0), set) {
                warnings.push(format_args!(
                    "{file}: both `{counts}` ({set}) and `{loses}` ({lost}) are set: `{counts}` \
                     counts; remove the other"
                ));
            }
        }
        if self.do_sample != Some(true) {
            return;
        }
        if self.temperature == Some(0.0) {
            warnings.push(format_args!(
                "{file}: `temperature` is 0, which allows no draws: the most likely token is taken; \
                 set `do_sample` to false to say so"
            ));
        }
        let above_one = |value: &f32| *value > 1.0;
        let no_cutoff = |value: &f32| *value < 0.0 || *value >= 1.0;
        for (key, value) in [
            ("top_p", self.top_p.filter(above_one)),
            ("typical_p", self.typical_p.filter(above_one)),
            ("epsilon_cutoff", self.epsilon_cutoff.filter(no_cutoff)),
            ("eta_cutoff", self.eta_cutoff.filter(no_cutoff)),
        ] {
            if let Some(value) = value {
                warnings.push(format_args!(
                    "{file}: `{key}` is {value}, not a probability: it is off, as in transformers"
                ));
            }
        }
    }
}

/// A key that would change the text and is not obeyed.
struct Unsupported {
    key: &'static str,
    /// Whether the value changes the text.
    matters: fn(&Value, &GenerationConfig) -> bool,
    /// What is done instead.
    instead: &'static str,
}

impl Unsupported {
    fn warn(&self, file: &Config, config: &GenerationConfig, warnings: &mut Warnings) {
        let key = self.key;
        let Ok(Some(value)) = file.optional::<Value>(key) else { return };
        if (self.matters)(&value, config) {
            let value: String = value.to_string().chars().take(60).collect();
            warnings.push(format_args!(
                "{}: `{key}` is {value}, which is not supported: {}; remove the key to accept that",
                file.file(),
                self.instead
            ));
        }
    }
}

fn above_one(value: &Value, _: &GenerationConfig) -> bool {
    value.as_f64().is_none_or(|value| value > 1.0)
}

fn other_than_one(value: &Value, _: &GenerationConfig) -> bool {
    value.as_f64() != Some(1.0)
}

fn true_alone(value: &Value, _: &GenerationConfig) -> bool {
    *value == Value::Bool(true)
}

fn always(_: &Value, _: &GenerationConfig) -> bool {
    true
}

/// Contrastive search, which transformers takes this key for in greedy generation.
fn contrastive(value: &Value, config: &GenerationConfig) -> bool {
    let positive = value.as_f64().is_none_or(|value| value > 0.0);
    positive && config.do_sample != Some(true) && config.top_k.is_some_and(|top_k| top_k > 1)
}

fn quantized(value: &Value, _: &GenerationConfig) -> bool {
    value.as_str() == Some("quantized")
}

const ONE_SEQUENCE: &str = "one sequence is generated, without a search";
const ONE_TOKEN: &str = "one token is generated in each step, without drafts";

const UNSUPPORTED: &[Unsupported] = &[
    Unsupported { key: "num_beams", matters: above_one, instead: ONE_SEQUENCE },
    Unsupported { key: "num_beam_groups", matters: above_one, instead: ONE_SEQUENCE },
    Unsupported { key: "num_return_sequences", matters: above_one, instead: ONE_SEQUENCE },
    Unsupported { key: "constraints", matters: always, instead: ONE_SEQUENCE },
    Unsupported { key: "force_words_ids", matters: always, instead: ONE_SEQUENCE },
    Unsupported { key: "penalty_alpha", matters: contrastive, instead: "the search is greedy" },
    Unsupported {
        key: "dola_layers",
        matters: always,
        instead: "the logits of the last layer alone count",
    },
    Unsupported { key: "guidance_scale", matters: other_than_one, instead: "there is no guidance" },
    Unsupported { key: "watermarking_config", matters: always, instead: "there is no watermark" },
    Unsupported {
        key: "token_healing",
        matters: true_alone,
        instead: "the prompt's last token stays as it is",
    },
    Unsupported {
        key: "cache_implementation",
        matters: quantized,
        instead: "keys and values are kept in full precision",
    },
    Unsupported { key: "use_mtp", matters: true_alone, instead: ONE_TOKEN },
    Unsupported { key: "prompt_lookup_num_tokens", matters: always, instead: ONE_TOKEN },
    Unsupported { key: "assistant_early_exit", matters: always, instead: ONE_TOKEN },
    Unsupported { key: "assistant_ensemble_weight", matters: always, instead: ONE_TOKEN },
    Unsupported { key: "speculation_type", matters: always, instead: ONE_TOKEN },
];

/// Keys of transformers that change no token of what is generated here: how transformers computes and
/// what it returns, settings of the kinds of search above, and of models with an encoder.
const WITHOUT_EFFECT: &[&str] = &[
    "_commit_hash",
    "_from_model_config",
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "cache_config",
    "compile_config",
    "continuous_batching_config",
    "decoder_start_token_id",
    "disable_compile",
    "diversity_penalty",
    "early_stopping",
    "is_assistant",
    "length_penalty",
    "low_memory",
    "max_cache_len",
    "max_matching_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "prefill_chunk_size",
    // The log of a sum is taken off all logits alike.
    "renormalize_logits",
    "return_dict_in_generate",
    "target_lookbehind",
    "transformers_version",
    "use_cache",
];

fn problem(error: Error) -> String {
    match error {
        Error::Config { problem, .. } => problem,
        error => error.to_string(),
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

/// One text, or a list.
struct Texts(Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "invalid type, expected a text or a list of them")]
        enum Written {
            One(String),
            Several(Vec<String>),
        }
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::One(text) => vec![text],
            Written::Several(texts) => texts,
        }))
    }
}

#[cfg(test)]
mod tests;
