//! The tokens that may still be drawn, and what narrows them: the logits warpers of transformers.

use std::cmp::Ordering;

use super::options::Sampling;

/// Tokens that `top_h` looks at, as in transformers.
const TOP_H_TOKENS: usize = 100;

/// Tokens that may still be drawn, always by ascending id.
#[derive(Debug, Clone, Default)]
pub struct Candidates {
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
    /// Starts over with what may be drawn.
    ///
    /// - `logits`: `[V]`; `best` is the largest
    pub fn narrow(&mut self, logits: &[f32], best: f32, sampling: &Sampling) {
        let top_k = sampling.top_k.unwrap_or(logits.len());
        self.take_top(logits, sampling.top_h.map_or(top_k, |_| TOP_H_TOKENS));
        self.weigh(best, sampling.temperature);
        if let Some(top_h) = sampling.top_h {
            self.keep_entropy(f64::from(top_h));
            if self.tokens.len() > top_k {
                self.keep_top(top_k);
            }
        }
        if sampling.top_p < 1.0 {
            self.keep_nucleus(f64::from(sampling.top_p));
        }
        self.keep_above(f64::from(sampling.min_p));
        if sampling.typical_p < 1.0 {
            self.keep_typical(f64::from(sampling.typical_p));
        }
        if sampling.epsilon_cutoff > 0.0 {
            self.keep_probable(f64::from(sampling.epsilon_cutoff));
        }
        if sampling.eta_cutoff > 0.0 {
            let eta = f64::from(sampling.eta_cutoff);
            self.keep_probable(eta.min(eta.sqrt() * (-self.entropy()).exp()));
        }
    }

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

    /// Keeps the most likely tokens up to the fraction `top_h` of the entropy (arXiv:2509.02510).
    fn keep_entropy(&mut self, top_h: f64) {
        self.tokens.sort_unstable_by(Candidate::by_rank);
        self.tokens.truncate(TOP_H_TOKENS);
        let enough = top_h * self.entropy();
        let total = self.total();
        let mut passed = 0.0;
        let above = |token: &Candidate| {
            passed += surprise(token.weight / total);
            passed > enough
        };
        let kept = self.tokens.iter().position(above).unwrap_or(self.tokens.len());
        self.tokens.truncate(kept.max(1));
        self.tokens.sort_unstable_by_key(|token| token.id);
    }

    /// Keeps the tokens closest to the mean information that have probability `mass` together
    /// (arXiv:2202.00666).
    fn keep_typical(&mut self, mass: f64) {
        let (total, entropy) = (self.total(), self.entropy());
        let distance = |token: &Candidate| ((token.weight / total).ln() + entropy).abs();
        self.ranked.clear();
        self.ranked.extend_from_slice(&self.tokens);
        let nearer = |a: &Candidate, b: &Candidate| {
            distance(a).total_cmp(&distance(b)).then(a.id.cmp(&b.id))
        };
        self.ranked.sort_unstable_by(nearer);
        let mut passed = 0.0;
        let enough = |token: &&Candidate| {
            passed += token.weight / total;
            passed >= mass
        };
        if let Some(farthest) = self.ranked.iter().find(enough).map(distance) {
            self.tokens.retain(|token| distance(token) <= farthest);
        }
    }

    /// Keeps tokens of at least this probability, and the most likely ones.
    fn keep_probable(&mut self, least: f64) {
        let total = self.total();
        let most = self.tokens.iter().map(|token| token.weight).fold(0.0, f64::max);
        self.tokens.retain(|token| token.weight / total >= least || token.weight == most);
    }

    /// The mean information of a draw, in nats.
    fn entropy(&self) -> f64 {
        let total = self.total();
        self.tokens.iter().map(|token| surprise(token.weight / total)).sum()
    }

    /// The token at the fraction `place` of all that remain, laid end to end.
    pub fn draw(&self, place: f64) -> u32 {
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

/// What a probability adds to an entropy.
fn surprise(probability: f64) -> f64 {
    if probability > 0.0 { -probability * probability.ln() } else { 0.0 }
}

#[cfg(test)]
mod tests;
