//! From the logits of one position to the next token.
//!
//! The steps are those of transformers, in its order: repetition penalty, temperature, top-k,
//! top-p, min-p, softmax, draw. Where they leave a choice it is fixed here, so that a seed gives
//! the same tokens everywhere and for ever: probabilities are f64, ties go to the smaller id, and
//! a draw walks the remaining tokens by ascending id.

use std::cmp::Ordering;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::options::{ResolvedOptions, Sampling};
use crate::error::Result;

/// Chooses the tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    repetition_penalty: f32,
    sampling: Option<Sampling>,
    random: ChaCha8Rng,
    penalised: Penalised,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler for sequence number `stream` of a batch.
    ///
    /// Every sequence has a separate stream of random numbers, so its tokens do not depend on what
    /// else is in the batch.
    pub fn new(options: &ResolvedOptions, stream: u64) -> Self {
        // ChaCha8 is a published cipher: no release of the crate can change its output, and it
        // numbers its streams. The key is built here because `seed_from_u64` may change.
        let mut key = [0; 32];
        key[..8].copy_from_slice(&options.seed.to_le_bytes());
        let mut random = ChaCha8Rng::from_seed(key);
        random.set_stream(stream);
        Self {
            repetition_penalty: options.repetition_penalty,
            sampling: options.sampling,
            random,
            penalised: Penalised::default(),
            candidates: Candidates::default(),
        }
    }

    /// Chooses the next token.
    ///
    /// - `logits`: `[V]`; `-inf` rules a token out
    /// - `history`: the prompt and the tokens so far; ids past the logits are ignored
    ///
    /// Without sampling this is the token with the largest logit, the first of equals.
    ///
    /// # Errors
    /// [`moexperts_core::Error::NotFinite`] if a logit is NaN, or the largest is infinite.
    pub fn next_token(&mut self, logits: &[f32], history: &[u32]) -> Result<u32> {
        let logits = if self.repetition_penalty == 1.0 {
            logits
        } else {
            self.penalised.apply(logits, history, self.repetition_penalty)
        };
        let best = most_likely(logits).ok_or_else(|| moexperts_core::Error::NotFinite {
            what: "logits".into(),
            token: history.len(),
        })?;
        let Some(sampling) = self.sampling else { return Ok(best as u32) };
        let candidates = &mut self.candidates;
        candidates.take_top(logits, sampling.top_k.unwrap_or(logits.len()));
        candidates.weigh(logits[best], sampling.temperature);
        if sampling.top_p < 1.0 {
            candidates.keep_nucleus(f64::from(sampling.top_p));
        }
        candidates.keep_above(f64::from(sampling.min_p));
        Ok(candidates.draw(unit_interval(&mut self.random)))
    }
}

/// The first largest logit, if it is finite and no logit is NaN.
fn most_likely(logits: &[f32]) -> Option<usize> {
    let mut best = 0;
    let mut any_nan = false;
    for (id, &logit) in logits.iter().enumerate() {
        any_nan |= logit.is_nan();
        if logit > logits[best] {
            best = id;
        }
    }
    let found = !any_nan && logits.get(best)?.is_finite();
    found.then_some(best)
}

/// Uniform in `0 .. 1`, a multiple of 2⁻⁵³.
fn unit_interval(random: &mut ChaCha8Rng) -> f64 {
    (random.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

/// Logits after the repetition penalty (arXiv:1909.05858).
#[derive(Debug, Clone, Default)]
struct Penalised {
    logits: Vec<f32>,
    /// Per id, whether it was met in the history; all false between calls.
    met: Vec<bool>,
}

impl Penalised {
    /// Divides the positive and multiplies the other logits of ids in the history, once per id.
    fn apply(&mut self, logits: &[f32], history: &[u32], penalty: f32) -> &[f32] {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.met.resize(logits.len(), false);
        for &id in history {
            let Some(met) = self.met.get_mut(id as usize) else { continue };
            if !*met {
                *met = true;
                let logit = &mut self.logits[id as usize];
                *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
            }
        }
        for &id in history {
            if let Some(met) = self.met.get_mut(id as usize) {
                *met = false;
            }
        }
        &self.logits
    }
}

/// Tokens that may still be drawn, always by ascending id.
#[derive(Debug, Clone, Default)]
struct Candidates {
    tokens: Vec<Candidate>,
    logits: Vec<f32>,
    ranked: Vec<Candidate>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
    /// Probability up to a common factor; the most likely token has 1.
    weight: f64,
}

impl Candidate {
    /// More likely first, then by id.
    fn by_rank(&self, other: &Self) -> Ordering {
        other.weight.total_cmp(&self.weight).then(self.id.cmp(&other.id))
    }
}

impl Candidates {
    /// Starts over with the `top_k` largest logits and those equal to the last of them.
    ///
    /// One pass: once `top_k` tokens are known, most of the vocabulary fails against the least of
    /// them, and the few that do not are thinned out whenever their number has doubled.
    fn take_top(&mut self, logits: &[f32], top_k: usize) {
        self.tokens.clear();
        let top_k = top_k.min(logits.len());
        let mut least = f32::MIN;
        let mut capacity = 2 * top_k;
        for (id, &logit) in logits.iter().enumerate() {
            if logit >= least {
                self.tokens.push(Candidate { id: id as u32, logit, weight: 0.0 });
                if self.tokens.len() > capacity {
                    least = self.keep_top(top_k);
                    capacity = 2 * self.tokens.len();
                }
            }
        }
        if self.tokens.len() > top_k {
            self.keep_top(top_k);
        }
    }

    /// Keeps the `top_k` largest logits and those equal to the last of them, which it returns.
    fn keep_top(&mut self, top_k: usize) -> f32 {
        self.logits.clear();
        self.logits.extend(self.tokens.iter().map(|token| token.logit));
        let descending = |a: &f32, b: &f32| b.total_cmp(a);
        let (_, &mut least, _) = self.logits.select_nth_unstable_by(top_k - 1, descending);
        self.tokens.retain(|token| token.logit >= least);
        least
    }

    /// Fills the weights: `exp((logit − best) / temperature)`.
    fn weigh(&mut self, best: f32, temperature: f32) {
        let (best, temperature) = (f64::from(best), f64::from(temperature));
        for token in &mut self.tokens {
            token.weight = ((f64::from(token.logit) - best) / temperature).exp();
        }
    }

    /// Keeps the fewest most likely tokens with probability `top_p` together.
    ///
    /// The nucleus is mostly small and the vocabulary is not: tokens too light for it are left out
    /// first, and the others ranked in pieces of growing size from the top.
    fn keep_nucleus(&mut self, top_p: f64) {
        let total = self.total();
        let enough = top_p * total;
        // All tokens lighter than this together are less than what the nucleus may lack.
        let light = (1.0 - top_p) * total / self.tokens.len() as f64;
        self.ranked.clear();
        self.ranked.extend(self.tokens.iter().filter(|token| token.weight >= light));
        let mut unranked = self.ranked.as_mut_slice();
        let mut mass = 0.0;
        let mut piece = 64;
        while !unranked.is_empty() {
            let len = piece.min(unranked.len());
            if len < unranked.len() {
                unranked.select_nth_unstable_by(len, Candidate::by_rank);
            }
            let (next, rest) = unranked.split_at_mut(len);
            next.sort_unstable_by(Candidate::by_rank);
            for last in next {
                mass += last.weight;
                if mass >= enough {
                    self.tokens.retain(|token| token.by_rank(last).is_le());
                    return;
                }
            }
            unranked = rest;
            piece *= 4;
        }
    }

    /// Keeps tokens at least `min_p` times as likely as the most likely.
    fn keep_above(&mut self, min_p: f64) {
        self.tokens.retain(|token| token.weight >= min_p);
    }

    /// The token at the fraction `place` of all that remain, laid end to end.
    fn draw(&self, place: f64) -> u32 {
        let target = place * self.total();
        let mut passed = 0.0;
        let mut last = 0;
        for token in self.tokens.iter().filter(|token| token.weight > 0.0) {
            passed += token.weight;
            last = token.id;
            if passed > target {
                break;
            }
        }
        last
    }

    fn total(&self) -> f64 {
        self.tokens.iter().map(|token| token.weight).sum()
    }
}

#[cfg(test)]
mod tests;
