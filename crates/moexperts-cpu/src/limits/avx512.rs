//! AVX-512: sixteen lanes.

use std::arch::x86_64::*;

use super::{chains::CHAINS, portable, reads::BLOCK};

/// Operations of one step of one chain.
pub(super) const FLOPS: u64 = 2 * 16;

#[target_feature(enable = "avx512f")]
pub(super) fn chains(starts: &[f32; CHAINS], factor: f32, summand: f32, steps: u64) -> f32 {
    let (factor, summand) = (_mm512_set1_ps(factor), _mm512_set1_ps(summand));
    let mut sums = [_mm512_setzero_ps(); CHAINS];
    for chain in 0..CHAINS {
        sums[chain] = _mm512_set1_ps(starts[chain]);
    }
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, summand);
        }
    }
    let mut total = 0.0;
    for sum in sums {
        total += _mm512_reduce_add_ps(sum);
    }
    total
}

#[target_feature(enable = "avx512f")]
pub(super) fn one_stream(block: &[u64; BLOCK]) -> u64 {
    portable::one_stream(block)
}

#[target_feature(enable = "avx512f")]
pub(super) fn four_streams(block: &[u64; BLOCK]) -> u64 {
    portable::four_streams(block)
}
