//! From the logits of one position to the next token.
//!
//! The steps are those of transformers, in its order: processors of the logits, temperature, top-h,
//! top-k, top-p, min-p, typical-p, the cutoffs, softmax, draw. Where they leave a choice it is fixed here, so that a seed gives
//! the same tokens everywhere and for ever: probabilities are f64, ties go to the smaller id, and
//! a draw walks the remaining tokens by ascending id.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::{
    candidates::Candidates,
    options::{ResolvedOptions, Sampling},
    processors::{Place, Processors},
};
use crate::error::Result;

/// Chooses the tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    processors: Processors,
    sampling: Option<Sampling>,
    random: ChaCha8Rng,
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
            processors: Processors::new(&options.processors),
            sampling: options.sampling,
            random,
            candidates: Candidates::default(),
        }
    }

    /// Chooses the next token.
    ///
    /// - `logits`: `[V]`; `-inf` rules a token out
    /// - `place`: where the token stands
    ///
    /// Without sampling this is the token with the largest logit, the first of equals.
    ///
    /// # Errors
    /// [`moexperts_core::Error::NotFinite`] if a logit is NaN, or the largest is infinite.
    pub fn next_token(&mut self, logits: &[f32], place: Place<'_>) -> Result<u32> {
        let logits = self.processors.apply(logits, place);
        let best = most_likely(logits).ok_or_else(|| moexperts_core::Error::NotFinite {
            what: "logits".into(),
            token: place.history.len(),
        })?;
        let Some(sampling) = self.sampling else { return Ok(best as u32) };
        self.candidates.narrow(logits, logits[best], &sampling);
        Ok(self.candidates.draw(unit_interval(&mut self.random)))
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

#[cfg(test)]
mod tests;
