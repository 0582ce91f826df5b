use proptest::prelude::*;

use super::*;
use crate::generate::options::{GenerateOptions, GenerationConfig};

fn sampler(options: GenerateOptions) -> Sampler {
    Sampler::new(&options.resolve(&GenerationConfig::default()).unwrap(), 0)
}

/// Draws on everything, with seed 1.
fn plain() -> GenerateOptions {
    GenerateOptions { top_k: Some(0), seed: Some(1), ..GenerateOptions::default() }
}

/// How often each of four tokens with these probabilities comes up in 4000 draws.
fn counts(options: GenerateOptions, probabilities: [f32; 4]) -> [u32; 4] {
    let logits = probabilities.map(f32::ln);
    let mut sampler = sampler(options);
    let mut counts = [0; 4];
    for _ in 0..4000 {
        counts[sampler.next_token(&logits, &[]).unwrap() as usize] += 1;
    }
    counts
}

/// Pearson's statistic below 16.27, which three degrees of freedom pass once in a thousand times.
#[track_caller]
fn check_distribution(counts: [u32; 4], expected: [f64; 4]) {
    let mut statistic = 0.0;
    for (count, probability) in counts.into_iter().zip(expected) {
        let mean = 4000.0 * probability;
        if probability == 0.0 {
            assert_eq!(count, 0, "{counts:?}");
        } else {
            statistic += (f64::from(count) - mean).powi(2) / mean;
        }
    }
    assert!(statistic < 16.27, "{counts:?} against {expected:?}: {statistic}");
}

const PROBABILITIES: [f32; 4] = [0.1, 0.4, 0.3, 0.2];

#[test]
fn draws_follow_the_probabilities() {
    check_distribution(counts(plain(), PROBABILITIES), [0.1, 0.4, 0.3, 0.2]);
}

#[test]
fn temperature_sharpens_and_flattens() {
    let at = |temperature| GenerateOptions { temperature: Some(temperature), ..plain() };
    let squares = [0.01, 0.16, 0.09, 0.04].map(|square| square / 0.3);
    check_distribution(counts(at(0.5), PROBABILITIES), squares);
    check_distribution(counts(at(1e6), PROBABILITIES), [0.25; 4]);
    check_distribution(counts(at(1e-40), PROBABILITIES), [0.0, 1.0, 0.0, 0.0]);
}

#[test]
fn top_k_keeps_the_most_likely_and_their_equals() {
    let top = |top_k| GenerateOptions { top_k: Some(top_k), ..plain() };
    check_distribution(counts(top(2), PROBABILITIES), [0.0, 4.0 / 7.0, 3.0 / 7.0, 0.0]);
    check_distribution(counts(top(9), PROBABILITIES), [0.1, 0.4, 0.3, 0.2]);
    check_distribution(counts(top(2), [0.25, 0.5, 0.25, 0.0]), [0.25, 0.5, 0.25, 0.0]);
}

#[test]
fn top_p_keeps_the_first_token_beyond_it() {
    let top = |top_p| GenerateOptions { top_p: Some(top_p), ..plain() };
    check_distribution(counts(top(0.35), PROBABILITIES), [0.0, 1.0, 0.0, 0.0]);
    check_distribution(counts(top(0.45), PROBABILITIES), [0.0, 4.0 / 7.0, 3.0 / 7.0, 0.0]);
    check_distribution(counts(top(0.95), PROBABILITIES), [0.1, 0.4, 0.3, 0.2]);
    check_distribution(counts(top(1e-9), PROBABILITIES), [0.0, 1.0, 0.0, 0.0]);
    // Of equals the first stay.
    check_distribution(counts(top(0.5), [0.25; 4]), [0.5, 0.5, 0.0, 0.0]);
}

#[test]
fn top_p_counts_what_top_k_left() {
    let options = GenerateOptions { top_k: Some(2), top_p: Some(0.55), ..plain() };
    check_distribution(counts(options, PROBABILITIES), [0.0, 1.0, 0.0, 0.0]);
}

#[test]
fn min_p_is_relative_to_the_most_likely() {
    let least = |min_p| GenerateOptions { min_p: Some(min_p), ..plain() };
    check_distribution(counts(least(0.6), PROBABILITIES), [0.0, 4.0 / 7.0, 3.0 / 7.0, 0.0]);
    check_distribution(counts(least(1.0), PROBABILITIES), [0.0, 1.0, 0.0, 0.0]);
    // After the temperature: √0.1 is half of √0.4.
    let flat = GenerateOptions { temperature: Some(2.0), ..least(0.49) };
    assert!(counts(flat, PROBABILITIES).iter().all(|&count| count > 0));
}

#[test]
fn the_most_likely_token_is_the_first_of_equals() {
    let mut greedy = sampler(GenerateOptions::default());
    assert_eq!(greedy.next_token(&[1.0, 3.0, -2.0, 3.0], &[]).unwrap(), 1);
    assert_eq!(greedy.next_token(&[f32::NEG_INFINITY, f32::MIN], &[]).unwrap(), 1);
}

#[test]
fn the_repetition_penalty_applies_once_to_each_token_of_the_history() {
    let mut penalised = Penalised::default();
    let logits = [4.0, -4.0, 0.0, 3.0, 3.5];
    let expected = [2.0, -8.0, 0.0, 1.5, 3.5];
    assert_eq!(penalised.apply(&logits, &[0, 1, 0, 2, 3, 0, 99], 2.0), expected);
    assert_eq!(penalised.apply(&logits, &[], 2.0), logits);
    let mut greedy =
        sampler(GenerateOptions { repetition_penalty: Some(2.0), ..GenerateOptions::default() });
    assert_eq!(greedy.next_token(&logits, &[]).unwrap(), 0);
    assert_eq!(greedy.next_token(&logits, &[0]).unwrap(), 4);
}

/// Logits of 1000 tokens without a pattern.
fn bumpy() -> Vec<f32> {
    (0_u32..1000).map(|id| (id.wrapping_mul(2_654_435_761) >> 16) as f32 / 6554.0).collect()
}

#[test]
fn a_seed_repeats_for_ever() {
    let options = GenerateOptions {
        temperature: Some(0.8),
        top_k: Some(40),
        top_p: Some(0.9),
        seed: Some(42),
        ..GenerateOptions::default()
    };
    let options = options.resolve(&GenerationConfig::default()).unwrap();
    let tokens = |stream| {
        let mut sampler = Sampler::new(&options, stream);
        [(); 8].map(|()| sampler.next_token(&bumpy(), &[]).unwrap())
    };
    // Computed apart from this crate, from ChaCha8 in Python.
    assert_eq!(tokens(0), [377, 288, 521, 377, 830, 76, 521, 288]);
    assert_eq!(tokens(1), [809, 199, 665, 110, 665, 521, 898, 576]);
}

#[test]
fn the_random_numbers_are_those_of_chacha8() {
    let mut random = sampler(GenerateOptions { seed: Some(0), ..plain() }).random;
    // The first words of the key stream of ChaCha8 under the zero key (eSTREAM test vectors).
    assert_eq!(random.next_u64().to_le_bytes(), [0x3e, 0x00, 0xef, 0x2f, 0x89, 0x5f, 0x40, 0xd6]);
}

#[test]
fn logits_that_are_not_finite_are_refused() {
    for options in [GenerateOptions::default(), plain()] {
        let mut sampler = sampler(options);
        for logits in [
            &[0.0, f32::NAN, 1.0][..],
            &[f32::NAN, 0.0],
            &[f32::INFINITY, 0.0],
            &[f32::NEG_INFINITY; 3],
            &[],
        ] {
            let refused = sampler.next_token(logits, &[5, 6]).unwrap_err();
            assert_eq!(refused.to_string(), "logits are not finite at token 2", "{logits:?}");
        }
    }
}

/// What stays of the candidates, by sorting everything.
fn kept_by_sorting(logits: &[f32], top_k: usize, top_p: f64) -> Vec<u32> {
    let mut ranked: Vec<usize> = (0..logits.len()).collect();
    ranked.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let least = logits[ranked[top_k.min(logits.len()) - 1]];
    ranked.retain(|&id| logits[id] >= least);
    let weight = |id: usize| (f64::from(logits[id]) - f64::from(logits[ranked[0]])).exp();
    let total: f64 = ranked.iter().map(|&id| weight(id)).sum();
    let mut before = 0.0;
    let mut kept = Vec::new();
    for &id in &ranked {
        if before < top_p * total {
            kept.push(id as u32);
        }
        before += weight(id);
    }
    kept.sort_unstable();
    kept
}

proptest! {
    #[test]
    fn narrowing_is_the_same_as_sorting_everything(
        tenths in prop::collection::vec(-40_i8..40, 1..600),
        top_k in 1_usize..200,
        top_p in 0.01_f64..0.99,
    ) {
        let logits: Vec<f32> = tenths.iter().map(|&tenth| f32::from(tenth) / 10.0).collect();
        let mut candidates = Candidates::default();
        candidates.take_top(&logits, top_k);
        candidates.weigh(logits[most_likely(&logits).unwrap()], 1.0);
        candidates.keep_nucleus(top_p);
        let kept: Vec<u32> = candidates.tokens.iter().map(|token| token.id).collect();
        prop_assert_eq!(kept, kept_by_sorting(&logits, top_k, top_p));
    }
}
