use super::*;
use crate::generate::{config::GenerationConfig, options::GenerateOptions};

fn sampler(options: GenerateOptions) -> Sampler {
    Sampler::new(&options.resolve(&GenerationConfig::default()).unwrap(), 0)
}

/// After a text of which nothing is known but its tokens.
fn at(history: &[u32]) -> Place<'_> {
    Place { history, prompt: 0, max_length: usize::MAX }
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
        counts[sampler.next_token(&logits, at(&[])).unwrap() as usize] += 1;
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
    assert_eq!(greedy.next_token(&[1.0, 3.0, -2.0, 3.0], at(&[])).unwrap(), 1);
    assert_eq!(greedy.next_token(&[f32::NEG_INFINITY, f32::MIN], at(&[])).unwrap(), 1);
}

#[test]
fn processors_come_before_the_choice() {
    let logits = [4.0, -4.0, 0.0, 3.0, 3.5];
    let mut greedy =
        sampler(GenerateOptions { repetition_penalty: Some(2.0), ..GenerateOptions::default() });
    assert_eq!(greedy.next_token(&logits, at(&[])).unwrap(), 0);
    assert_eq!(greedy.next_token(&logits, at(&[0])).unwrap(), 4);
    let suppress_tokens = Some(vec![0, 4]);
    let mut greedy = sampler(GenerateOptions { suppress_tokens, ..GenerateOptions::default() });
    assert_eq!(greedy.next_token(&logits, at(&[])).unwrap(), 3);
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
        [(); 8].map(|()| sampler.next_token(&bumpy(), at(&[])).unwrap())
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
            let refused = sampler.next_token(logits, at(&[5, 6])).unwrap_err();
            assert_eq!(refused.to_string(), "logits are not finite at token 2", "{logits:?}");
        }
    }
}
