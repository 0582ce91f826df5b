//! How likely a token was, and which others were.

/// How likely a new token was for the model: natural logarithms of probabilities, the softmax of the
/// logits as the model gives them, before penalties, temperature and the like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TokenLogprobs {
    /// That of the token.
    pub logprob: f32,
    /// The most likely tokens, as many as [`GenerateOptions::logprobs`](crate::GenerateOptions::logprobs)
    /// says, the most likely first, of equals the smaller id.
    pub top: Vec<(u32, f32)>,
}

/// Reads them off `logits` `[V]`.
pub fn token_logprobs(logits: &[f32], token: u32, top: usize) -> TokenLogprobs {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - best).exp()).sum();
    let logprob = |logit: f32| (f64::from(logit - best) - sum.ln()) as f32;
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let by_rank =
        |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let top = top.min(ids.len());
    if top < ids.len() {
        ids.select_nth_unstable_by(top, by_rank);
        ids.truncate(top);
    }
    ids.sort_unstable_by(by_rank);
    TokenLogprobs {
        logprob: logprob(logits[token as usize]),
        top: ids.into_iter().map(|id| (id, logprob(logits[id as usize]))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_logarithms_of_the_softmax() {
        let logits = [1.0, 3.0, f32::NEG_INFINITY, 3.0, 2.0];
        let sum = (1.0_f64.exp() + 2.0 * 3.0_f64.exp() + 2.0_f64.exp()).ln();
        let expected = |logit: f64| (logit - sum) as f32;
        let got = token_logprobs(&logits, 0, 3);
        assert!((got.logprob - expected(1.0)).abs() < 1e-6);
        assert_eq!(got.top.iter().map(|top| top.0).collect::<Vec<_>>(), [1, 3, 4]);
        assert!((got.top[2].1 - expected(2.0)).abs() < 1e-6);
    }

    #[test]
    fn none_and_all_may_be_listed() {
        assert_eq!(token_logprobs(&[0.5, 0.5], 1, 0).top, []);
        let all = token_logprobs(&[0.5, 1.5], 1, 9).top;
        assert_eq!(all.iter().map(|top| top.0).collect::<Vec<_>>(), [1, 0]);
    }
}
