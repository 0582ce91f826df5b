//! The options of a generation, and their values once the model's defaults are filled in.

use std::hash::{BuildHasher, Hasher, RandomState};

use super::{config::GenerationConfig, processors::Processor};
use crate::error::{Error, Result};

/// The options of a generation.
///
/// `None` takes the value of the model's `generation_config.json`, and where that has none, the
/// default given here, which is that of transformers.
///
/// Setting `temperature` (other than 0), `top_k`, `top_p`, `min_p`, `top_h`, `typical_p`,
/// `epsilon_cutoff` or `eta_cutoff` here turns sampling on, unless `do_sample` is `Some(false)`. The same values in `generation_config.json` do nothing until
/// sampling is turned on.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// The most tokens to generate, at least 1; 128, but not past what the model was trained for.
    pub max_new_tokens: Option<usize>,
    /// The most tokens of prompt and text together; `max_new_tokens` counts where both are set,
    /// wherever they come from; off.
    pub max_length: Option<usize>,
    /// Rules out end tokens before this many new tokens; 0.
    pub min_new_tokens: Option<usize>,
    /// Rules out end tokens in prompt and text of fewer tokens than this together; 0.
    pub min_length: Option<usize>,
    /// Ends texts with the token during which this many seconds passed; off.
    pub max_time: Option<f64>,
    /// Draw tokens at random instead of taking the most likely; false.
    pub do_sample: Option<bool>,
    /// Divides the logits before a draw; 0 takes the most likely token whatever `do_sample` says;
    /// 1.
    pub temperature: Option<f32>,
    /// Draws among this many most likely tokens, and those as likely as the last; 0 is off; 50.
    pub top_k: Option<usize>,
    /// Draws among the most likely tokens up to this fraction of the entropy, above 0 up to 1; off.
    pub top_h: Option<f32>,
    /// Draws among the fewest most likely tokens that have this probability together, above 0 up
    /// to 1; 1, which is off.
    pub top_p: Option<f32>,
    /// Draws among tokens at least this many times as likely as the most likely, 0 to 1; off.
    pub min_p: Option<f32>,
    /// Draws among the tokens closest to the mean information that have this probability together,
    /// above 0 up to 1; 1, which is off.
    pub typical_p: Option<f32>,
    /// Draws among tokens of at least this probability, below 1; 0, which is off.
    pub epsilon_cutoff: Option<f32>,
    /// As `epsilon_cutoff`, with a bound that falls as the entropy grows; 0, which is off.
    pub eta_cutoff: Option<f32>,
    /// Makes tokens of the prompt and the text so far less likely, above 0; 1, which is off.
    pub repetition_penalty: Option<f32>,
    /// Makes tokens of the prompt more likely, above 0; 1, which is off.
    pub encoder_repetition_penalty: Option<f32>,
    /// No row of this many tokens comes twice in prompt and text; 0, which is off.
    pub no_repeat_ngram_size: Option<usize>,
    /// No row of this many tokens of the prompt comes in the text; 0, which is off.
    pub encoder_no_repeat_ngram_size: Option<usize>,
    /// Rows of tokens that are not written; rows that are one end token are left out.
    pub bad_words_ids: Option<Vec<Vec<u32>>>,
    /// Rows of tokens, and what is added to the logit of the last where the others were written.
    pub sequence_bias: Option<Vec<(Vec<u32>, f32)>>,
    /// Tokens that are not written.
    pub suppress_tokens: Option<Vec<u32>>,
    /// Tokens that are not written first.
    pub begin_suppress_tokens: Option<Vec<u32>>,
    /// The token after a prompt of one token.
    pub forced_bos_token_id: Option<u32>,
    /// The last token that the length allows, one of these.
    pub forced_eos_token_id: Option<Vec<u32>>,
    /// Makes end tokens more likely after this many new tokens, by a power of this factor.
    pub exponential_decay_length_penalty: Option<(usize, f64)>,
    /// Goes on where logits are not finite; false.
    pub remove_invalid_values: Option<bool>,
    /// Reports with each token how likely it was, and this many most likely ones; see
    /// [`TokenLogprobs`](crate::TokenLogprobs).
    pub logprobs: Option<usize>,
    /// Repeats the draws of another run; a fresh one each time.
    pub seed: Option<u64>,
    /// The tokens that end a text.
    pub eos_token_id: Option<Vec<u32>>,
    /// Texts that end a text where they appear; they are not part of it. Without any, those of the
    /// model.
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
            max_length: None,
            min_new_tokens: None,
            min_length: None,
            max_time: None,
            do_sample: None,
            temperature: None,
            top_k: None,
            top_h: None,
            top_p: None,
            min_p: None,
            typical_p: None,
            epsilon_cutoff: None,
            eta_cutoff: None,
            repetition_penalty: None,
            encoder_repetition_penalty: None,
            no_repeat_ngram_size: None,
            encoder_no_repeat_ngram_size: None,
            bad_words_ids: None,
            sequence_bias: None,
            suppress_tokens: None,
            begin_suppress_tokens: None,
            forced_bos_token_id: None,
            forced_eos_token_id: None,
            exponential_decay_length_penalty: None,
            remove_invalid_values: None,
            logprobs: None,
            seed: None,
            eos_token_id: None,
            stop_strings: Vec::new(),
            ignore_eos: false,
            decode_switch: true,
        }
    }
}

/// [`GenerateOptions`] with every gap filled and every value checked.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedOptions {
    /// How long a sequence may get.
    pub length: Length,
    /// Seconds after which texts end.
    pub max_time: Option<f64>,
    /// How tokens are drawn; `None` takes the most likely.
    pub sampling: Option<Sampling>,
    /// What changes the logits, in the order in which it applies.
    pub processors: Vec<Processor>,
    /// How many most likely tokens are reported with each token.
    pub logprobs: Option<usize>,
    /// The seed of the draws, drawn itself if the user set none: with it the run can be repeated.
    pub seed: u64,
    /// The tokens that end a text; empty if they are ignored.
    pub eos_token_id: Vec<u32>,
    /// Texts that end a text, none of them empty.
    pub stop_strings: Vec<String>,
    /// On a GPU, run experts on `grouped_mm` as `batched_mm` while decoding.
    pub decode_switch: bool,
}

/// How long a sequence may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// This many new tokens, at least 1.
    New(usize),
    /// This many tokens, the prompt's included.
    Total(usize),
    /// Nothing is set: 128 new tokens, but not past the length that the model was trained for.
    Default,
}

/// The ways to narrow a draw, in the order in which they apply.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; above 0.
    pub temperature: f32,
    /// The fraction of the entropy that stays; `None` is all.
    pub top_h: Option<f32>,
    /// How many most likely tokens stay; `None` is all.
    pub top_k: Option<usize>,
    /// The probability that has to stay; 1 is all.
    pub top_p: f32,
    /// The least probability relative to the most likely token; 0 is all.
    pub min_p: f32,
    /// The probability of typical tokens that has to stay; 1 is all.
    pub typical_p: f32,
    /// The least probability; 0 is all.
    pub epsilon_cutoff: f32,
    /// The least probability where the entropy is small; 0 is all.
    pub eta_cutoff: f32,
}

impl Default for Sampling {
    /// Draws on everything.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_h: None,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            epsilon_cutoff: 0.0,
            eta_cutoff: 0.0,
        }
    }
}

impl GenerateOptions {
    /// Fills what is not set from the model's files or the defaults, and checks the values.
    ///
    /// # Errors
    /// For a value out of its range: [`Error::Option`] for one that is set here, [`Error::Config`]
    /// for one of the model's files.
    pub fn resolve(&self, model: &GenerationConfig) -> Result<ResolvedOptions> {
        let eos_token_id = if self.ignore_eos {
            Vec::new()
        } else {
            self.eos_token_id.clone().unwrap_or_else(|| model.eos_token_id.clone())
        };
        let own_stops = !self.stop_strings.is_empty();
        let stop_strings = if own_stops { &self.stop_strings } else { &model.stop_strings };
        let stops = Given { key: "stop_strings", own: own_stops, file: &model.file };
        if stop_strings.iter().any(String::is_empty) {
            return Err(stops.refused("\"\"", "texts that are not empty"));
        }
        Ok(ResolvedOptions {
            length: self.length(model)?,
            max_time: self.max_time.or(model.max_time),
            sampling: self.sampling(model)?,
            processors: self.processors(model, &eos_token_id)?,
            logprobs: self.logprobs,
            seed: self.seed.unwrap_or_else(fresh_seed),
            eos_token_id,
            stop_strings: stop_strings.clone(),
            decode_switch: self.decode_switch,
        })
    }

    fn length(&self, model: &GenerationConfig) -> Result<Length> {
        let max_length = self.max_length.or(model.max_length);
        let Some(new) = self.max_new_tokens.or(model.max_new_tokens) else {
            return Ok(max_length.map_or(Length::Default, Length::Total));
        };
        let own = self.max_new_tokens.is_some();
        if new == 0 {
            let given = Given { key: "max_new_tokens", own, file: &model.file };
            return Err(given.refused(0, "at least 1"));
        }
        if let Some(max_length) = self.max_length {
            tracing::warn!(
                "both `max_new_tokens` ({new}) and `max_length` ({max_length}) are set: \
                 `max_new_tokens` counts"
            );
        }
        Ok(Length::New(new))
    }

    /// The processors that have something to do, in the order of transformers.
    fn processors(&self, model: &GenerationConfig, eos: &[u32]) -> Result<Vec<Processor>> {
        let mut list = Vec::new();
        let given = |key, own| Given { key, own, file: &model.file };
        if let Some(biases) = self.sequence_bias.as_ref().or(model.sequence_bias.as_ref()) {
            let given = given("sequence_bias", self.sequence_bias.is_some());
            list.push(sequence_bias(biases, &given)?);
        }
        let penalty = |key, own: Option<f32>, of_model: Option<f32>| -> Result<Option<f32>> {
            let penalty = own.or(of_model).unwrap_or(1.0);
            let allowed = penalty > 0.0 && penalty.is_finite();
            let expected = "a finite number above 0";
            let penalty = given(key, own.is_some()).within(penalty, allowed, expected)?;
            Ok(Some(penalty).filter(|&penalty| penalty != 1.0))
        };
        let key = "encoder_repetition_penalty";
        let encoder = self.encoder_repetition_penalty;
        let encoder = penalty(key, encoder, model.encoder_repetition_penalty)?;
        list.extend(encoder.map(Processor::EncoderRepetitionPenalty));
        let repetition = self.repetition_penalty;
        let repetition = penalty("repetition_penalty", repetition, model.repetition_penalty)?;
        list.extend(repetition.map(Processor::RepetitionPenalty));
        let positive = |own: Option<usize>, of_model| own.or(of_model).filter(|&count| count > 0);
        let size = positive(self.no_repeat_ngram_size, model.no_repeat_ngram_size);
        list.extend(size.map(Processor::NoRepeatNgramSize));
        let size = positive(self.encoder_no_repeat_ngram_size, model.encoder_no_repeat_ngram_size);
        list.extend(size.map(Processor::EncoderNoRepeatNgramSize));
        if let Some(words) = self.bad_words_ids.as_ref().or(model.bad_words_ids.as_ref()) {
            if words.is_empty() {
                let given = given("bad_words_ids", self.bad_words_ids.is_some());
                return Err(given.refused("[]", "at least one list of token ids"));
            }
            let is_end = |word: &Vec<u32>| word.len() == 1 && eos.contains(&word[0]);
            let words = words.iter().filter(|word| !is_end(word)).cloned().collect();
            list.push(Processor::BadWords(words));
        }
        if !eos.is_empty() {
            let least = positive(self.min_length, model.min_length);
            list.extend(least.map(|least| Processor::MinLength(least, eos.to_vec())));
            let least = positive(self.min_new_tokens, model.min_new_tokens);
            list.extend(least.map(|least| Processor::MinNewTokens(least, eos.to_vec())));
        }
        self.forced_and_suppressed(model, eos, &mut list)?;
        Ok(list)
    }

    fn forced_and_suppressed(
        &self,
        model: &GenerationConfig,
        eos: &[u32],
        list: &mut Vec<Processor>,
    ) -> Result<()> {
        let forced_bos = self.forced_bos_token_id.or(model.forced_bos_token_id);
        let forced_eos = self.forced_eos_token_id.as_ref().or(model.forced_eos_token_id.as_ref());
        let suppressed = self.suppress_tokens.as_ref().or(model.suppress_tokens.as_ref());
        let none_left = |ids: &[u32]| {
            let suppressed = suppressed.map_or(&[][..], Vec::as_slice);
            !ids.is_empty() && ids.iter().all(|id| suppressed.contains(id))
        };
        for (key, own, ids) in [
            ("forced_bos_token_id", self.forced_bos_token_id.is_some(), forced_bos.as_slice()),
            (
                "forced_eos_token_id",
                self.forced_eos_token_id.is_some(),
                forced_eos.map_or(&[][..], Vec::as_slice),
            ),
        ] {
            if none_left(ids) {
                let given = Given { key, own, file: &model.file };
                let expected = "a token that `suppress_tokens` does not rule out";
                return Err(given.refused(format_args!("{ids:?}"), expected));
            }
        }
        list.extend(forced_bos.map(Processor::ForcedBos));
        list.extend(forced_eos.filter(|ids| !ids.is_empty()).cloned().map(Processor::ForcedEos));
        if self.remove_invalid_values.or(model.remove_invalid_values) == Some(true) {
            list.push(Processor::RemoveInvalidValues);
        }
        let decay = self.exponential_decay_length_penalty;
        if let Some((start, factor)) = decay.or(model.exponential_decay_length_penalty) {
            list.push(Processor::ExponentialDecay { start, factor, eos: eos.to_vec() });
        }
        list.extend(suppressed.cloned().map(Processor::Suppress));
        let first = self.begin_suppress_tokens.as_ref().or(model.begin_suppress_tokens.as_ref());
        list.extend(
            first
                .cloned()
                .map(|ids| Processor::SuppressAtBegin { ids, forced_bos: forced_bos.is_some() }),
        );
        Ok(())
    }

    /// How tokens are drawn. Values that only draws read are not looked at without draws.
    fn sampling(&self, model: &GenerationConfig) -> Result<Option<Sampling>> {
        let do_sample = self
            .do_sample
            .unwrap_or_else(|| self.narrows_a_draw() || model.do_sample.unwrap_or(false));
        let file = Source { model, draws: do_sample };
        let temperature = file.value("temperature", self.temperature, model.temperature, 1.0)?;
        let temperature = temperature.within(
            |value| value >= 0.0 && value.is_finite(),
            "a finite number above 0, or 0 for the most likely token",
        )?;
        let top_p = file.value("top_p", self.top_p, model.top_p, 1.0)?;
        let top_p = if top_p.given.own {
            top_p.within(|value| value > 0.0 && value <= 1.0, "above 0 and at most 1")?
        } else {
            top_p.within(|value| value >= 0.0, "at least 0 and at most 1")?.min(1.0)
        };
        let unit = |value| (0.0..=1.0).contains(&value);
        let min_p = file.value("min_p", self.min_p, model.min_p, 0.0)?;
        let min_p = min_p.within(unit, "at least 0 and at most 1")?;
        let top_h = match self.top_h.or(model.top_h) {
            None => file.value("top_h", None, None, 1.0).map(|_| None)?,
            Some(_) => Some(
                file.value("top_h", self.top_h, model.top_h, 1.0)?
                    .within(|value| value > 0.0 && value <= 1.0, "above 0 and at most 1")?,
            ),
        };
        let typical_p = file.value("typical_p", self.typical_p, model.typical_p, 1.0)?;
        let own = typical_p.given.own;
        let typical_p = typical_p
            .within(|value| value > 0.0 && (value <= 1.0 || !own), "above 0 and at most 1")?;
        let sampling = Sampling {
            temperature,
            top_h,
            top_k: self.top_k(&file)?,
            top_p,
            min_p,
            typical_p: typical_p.min(1.0),
            epsilon_cutoff: file.cutoff(
                "epsilon_cutoff",
                self.epsilon_cutoff,
                model.epsilon_cutoff,
            )?,
            eta_cutoff: file.cutoff("eta_cutoff", self.eta_cutoff, model.eta_cutoff)?,
        };
        Ok((do_sample && temperature > 0.0).then_some(sampling))
    }

    fn top_k(&self, file: &Source<'_>) -> Result<Option<usize>> {
        if self.top_k.is_none() {
            file.check("top_k")?;
        }
        Ok(Some(self.top_k.or(file.model.top_k).unwrap_or(50)).filter(|&top_k| top_k > 0))
    }

    /// Whether a value is set that means something for draws only.
    fn narrows_a_draw(&self) -> bool {
        let widths = [
            self.temperature,
            self.top_p,
            self.min_p,
            self.top_h,
            self.typical_p,
            self.epsilon_cutoff,
            self.eta_cutoff,
        ];
        self.top_k.is_some() || widths.iter().any(Option::is_some)
    }
}

/// Where a value comes from.
#[derive(Clone, Copy)]
struct Given<'a> {
    key: &'static str,
    /// Whether the caller set it, rather than the model's file.
    own: bool,
    file: &'a str,
}

impl Given<'_> {
    fn within<T: Copy + ToString>(&self, value: T, allowed: bool, expected: &str) -> Result<T> {
        if allowed { Ok(value) } else { Err(self.refused(value, expected)) }
    }

    fn refused(&self, got: impl ToString, expected: &str) -> Error {
        let (key, got) = (self.key, got.to_string());
        if self.own || self.file.is_empty() {
            return Error::Option { option: key, got, expected: expected.to_owned() };
        }
        let problem = format!("key `{key}` is {got}, expected {expected}");
        Error::Config { file: self.file.to_owned(), problem }
    }
}

/// The model's file, and whether the keys that only draws read count.
struct Source<'a> {
    model: &'a GenerationConfig,
    draws: bool,
}

/// A value that only draws read.
struct DrawValue<'a> {
    given: Given<'a>,
    value: f32,
    checked: bool,
}

impl DrawValue<'_> {
    fn within(&self, allowed: impl Fn(f32) -> bool, expected: &str) -> Result<f32> {
        self.given.within(self.value, !self.checked || allowed(self.value), expected)
    }
}

impl<'a> Source<'a> {
    /// What is set, or `default`. What the caller sets is always checked.
    fn value(
        &self,
        key: &'static str,
        own: Option<f32>,
        of_model: Option<f32>,
        default: f32,
    ) -> Result<DrawValue<'a>> {
        if own.is_none() {
            self.check(key)?;
        }
        let given = Given { key, own: own.is_some(), file: &self.model.file };
        let value = own.or(of_model).unwrap_or(default);
        Ok(DrawValue { given, value, checked: given.own || self.draws })
    }

    /// A least probability; those out of range in a file are off, as in transformers.
    fn cutoff(&self, key: &'static str, own: Option<f32>, of_model: Option<f32>) -> Result<f32> {
        let cutoff = self.value(key, own, of_model, 0.0)?;
        let allowed = |value| (0.0..1.0).contains(&value);
        if cutoff.given.own {
            return cutoff.within(allowed, "at least 0 and less than 1");
        }
        Ok(if allowed(cutoff.value) { cutoff.value } else { 0.0 })
    }

    /// Refuses a value of the file that is not of its type, if draws read it.
    fn check(&self, key: &str) -> Result<()> {
        match self.model.refused.iter().find(|(refused, _)| *refused == key) {
            Some((_, problem)) if self.draws => {
                Err(Error::Config { file: self.model.file.clone(), problem: problem.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// The biases, of equal sequences the last.
fn sequence_bias(biases: &[(Vec<u32>, f32)], given: &Given<'_>) -> Result<Processor> {
    if biases.is_empty() || biases.iter().any(|(ids, _)| ids.is_empty()) {
        let expected = "at least one list of token ids, none of them empty, each with its bias";
        return Err(given.refused(format_args!("{biases:?}"), expected));
    }
    let mut distinct: Vec<(Vec<u32>, f32)> = Vec::with_capacity(biases.len());
    for (ids, bias) in biases {
        match distinct.iter_mut().find(|(other, _)| other == ids) {
            Some((_, other)) => *other = *bias,
            None => distinct.push((ids.clone(), *bias)),
        }
    }
    Ok(Processor::SequenceBias(distinct))
}

/// A seed that differs from run to run: the standard library draws its hash keys at random.
fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests;
