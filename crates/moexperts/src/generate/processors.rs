//! What changes logits before a token is chosen: the logits processors of transformers, in its order.

use crate::error::{Error, Result};

/// One change to the logits of the next token.
#[derive(Debug, Clone, PartialEq)]
pub enum Processor {
    /// Added to the last token of each sequence where the tokens before it were just written.
    SequenceBias(Vec<(Vec<u32>, f32)>),
    /// Makes tokens of the prompt more likely, if above 1.
    EncoderRepetitionPenalty(f32),
    /// Makes tokens that were met less likely, if above 1 (<https://arxiv.org/abs/1909.05858>).
    RepetitionPenalty(f32),
    /// Rules out what would write this many tokens in a row a second time.
    NoRepeatNgramSize(usize),
    /// Rules out what would write this many tokens of the prompt in a row.
    EncoderNoRepeatNgramSize(usize),
    /// Rules out the last token of each where those before it were just written.
    BadWords(Vec<Vec<u32>>),
    /// Rules out end tokens in sequences of fewer tokens than this, the prompt's included.
    MinLength(usize, Vec<u32>),
    /// Rules out end tokens before this many new ones.
    MinNewTokens(usize, Vec<u32>),
    /// The second token of a sequence.
    ForcedBos(u32),
    /// The last token that the length allows, one of these.
    ForcedEos(Vec<u32>),
    /// Puts finite values in the place of others.
    RemoveInvalidValues,
    /// Makes end tokens more likely with each token.
    ExponentialDecay {
        /// New tokens before it begins.
        start: usize,
        /// The base of the growth.
        factor: f64,
        /// The end tokens.
        eos: Vec<u32>,
    },
    /// Rules tokens out.
    Suppress(Vec<u32>),
    /// Rules tokens out as the first new one, or the second if the first is forced.
    SuppressAtBegin {
        /// The tokens.
        ids: Vec<u32>,
        /// Whether a first token is forced after a prompt of one token.
        forced_bos: bool,
    },
}

/// Where the next token stands.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The prompt and the tokens so far.
    pub history: &'a [u32],
    /// How many of them are the prompt.
    pub prompt: usize,
    /// The most tokens the sequence can have.
    pub max_length: usize,
}

/// The processors of a sequence, and their memory.
#[derive(Debug, Clone, Default)]
pub struct Processors {
    list: Vec<Processor>,
    scores: Vec<f32>,
    /// Per id, whether it was met; all false between calls.
    met: Vec<bool>,
}

impl Processor {
    /// Checks that the logits have all tokens that it names.
    ///
    /// # Errors
    /// [`Error::Option`] if they have not.
    pub fn check(&self, vocab: usize) -> Result<()> {
        let (option, largest) = match self {
            Self::SequenceBias(biases) => {
                ("sequence_bias", biases.iter().flat_map(|(ids, _)| ids).max())
            }
            Self::BadWords(words) => ("bad_words_ids", words.iter().flatten().max()),
            Self::ForcedBos(id) => ("forced_bos_token_id", Some(id)),
            Self::ForcedEos(ids) => ("forced_eos_token_id", ids.iter().max()),
            _ => return Ok(()),
        };
        match largest {
            Some(&id) if id as usize >= vocab => {
                let expected = format!("token ids less than the model's {vocab}");
                Err(Error::Option { option, got: id.to_string(), expected })
            }
            _ => Ok(()),
        }
    }

    /// The tokens that a sequence has before it can end, the prompt's included.
    pub fn least(&self, prompt: usize) -> Option<usize> {
        match self {
            Self::MinLength(least, _) => Some(*least),
            Self::MinNewTokens(least, _) => Some(prompt.saturating_add(*least)),
            _ => None,
        }
    }

    fn apply(&self, scores: &mut [f32], met: &mut Vec<bool>, place: Place<'_>) {
        let Place { history, prompt, max_length } = place;
        match self {
            Self::SequenceBias(biases) => {
                for (ids, bias) in biases {
                    add_bias(scores, history, ids, *bias);
                }
            }
            Self::EncoderRepetitionPenalty(penalty) => {
                penalise(scores, met, &history[..prompt], 1.0 / penalty);
            }
            Self::RepetitionPenalty(penalty) => penalise(scores, met, history, *penalty),
            Self::NoRepeatNgramSize(size) => ban_repeats(scores, history, history, *size),
            Self::EncoderNoRepeatNgramSize(size) => {
                ban_repeats(scores, &history[..prompt], history, *size);
            }
            Self::BadWords(words) => {
                for ids in words {
                    add_bias(scores, history, ids, f32::NEG_INFINITY);
                }
            }
            Self::MinLength(least, eos) if history.len() < *least => ban(scores, eos),
            Self::MinNewTokens(least, eos) if history.len() - prompt < *least => ban(scores, eos),
            Self::ForcedBos(id) if history.len() == 1 => force(scores, &[*id]),
            Self::ForcedEos(ids) if history.len() + 1 == max_length => force(scores, ids),
            Self::RemoveInvalidValues => scores.iter_mut().for_each(make_finite),
            Self::ExponentialDecay { start, factor, eos } => {
                let passed = (history.len() - prompt).saturating_sub(*start);
                if passed > 0 {
                    let growth = factor.powf(passed as f64) - 1.0;
                    each(scores, eos, |score| {
                        if score.is_finite() {
                            *score += (f64::from(score.abs()) * growth) as f32;
                        }
                    });
                }
            }
            Self::Suppress(ids) => ban(scores, ids),
            Self::SuppressAtBegin { ids, forced_bos } => {
                let begin = prompt + usize::from(prompt == 1 && *forced_bos);
                if history.len() == begin {
                    ban(scores, ids);
                }
            }
            _ => {}
        }
    }
}

impl Processors {
    /// Those of a sequence.
    pub fn new(list: &[Processor]) -> Self {
        Self { list: list.to_vec(), ..Self::default() }
    }

    /// The logits after all processors; without any, the logits themselves.
    ///
    /// - `logits`: `[V]`; ids past them are ignored
    pub fn apply<'a>(&'a mut self, logits: &'a [f32], place: Place<'_>) -> &'a [f32] {
        if self.list.is_empty() {
            return logits;
        }
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        for processor in &self.list {
            processor.apply(&mut self.scores, &mut self.met, place);
        }
        &self.scores
    }
}

/// Calls `change` with the score of each id.
fn each(scores: &mut [f32], ids: &[u32], mut change: impl FnMut(&mut f32)) {
    for &id in ids {
        if let Some(score) = scores.get_mut(id as usize) {
            change(score);
        }
    }
}

fn ban(scores: &mut [f32], ids: &[u32]) {
    each(scores, ids, |score| *score = f32::NEG_INFINITY);
}

fn force(scores: &mut [f32], ids: &[u32]) {
    scores.fill(f32::NEG_INFINITY);
    each(scores, ids, |score| *score = 0.0);
}

fn make_finite(score: &mut f32) {
    *score = if score.is_nan() { 0.0 } else { score.clamp(f32::MIN, f32::MAX) };
}

fn add_bias(scores: &mut [f32], history: &[u32], ids: &[u32], bias: f32) {
    if let Some((&last, before)) = ids.split_last()
        && history.ends_with(before)
    {
        each(scores, &[last], |score| *score += bias);
    }
}

/// Divides the positive and multiplies the other scores of ids in `seen`, once per id.
fn penalise(scores: &mut [f32], met: &mut Vec<bool>, seen: &[u32], penalty: f32) {
    met.resize(scores.len(), false);
    for &id in seen {
        let Some(met) = met.get_mut(id as usize) else { continue };
        if !*met {
            *met = true;
            let score = &mut scores[id as usize];
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
    for &id in seen {
        if let Some(met) = met.get_mut(id as usize) {
            *met = false;
        }
    }
}

/// Rules out what follows the end of `history` somewhere in `seen`, where `size - 1` tokens agree.
fn ban_repeats(scores: &mut [f32], seen: &[u32], history: &[u32], size: usize) {
    let Some(start) = (history.len() + 1).checked_sub(size) else { return };
    let end = &history[start..];
    for window in seen.windows(size) {
        if let Some((&last, before)) = window.split_last()
            && before == end
        {
            ban(scores, &[last]);
        }
    }
}
