//! AVX2 and FMA: eight lanes.

use std::arch::x86_64::*;

use super::{
    portable,
    sizes::{BLOCK, CHAINS},
};

/// Operations of one step of one chain.
pub(super) const FLOPS: u64 = 2 * 8;

#[target_feature(enable = "avx2,fma")]
pub(super) fn chains(starts: &[f32; CHAINS], factor: f32, summand: f32, steps: u64) -> f32 {
    let (factor, summand) = (_mm256_set1_ps(factor), _mm256_set1_ps(summand));
    let mut sums = [_mm256_setzero_ps(); CHAINS];
    for chain in 0..CHAINS {
        sums[chain] = _mm256_set1_ps(starts[chain]);
    }
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, factor, summand);
        }
    }
    let mut lanes = [0.0; 8];
    let mut total = 0.0;
    for sum in sums {
        // SAFETY: `lanes` holds eight values.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
        total += lanes.iter().sum::<f32>();
    }
    total
}

#[target_feature(enable = "avx2")]
pub(super) fn one_stream(block: &[u64; BLOCK]) -> u64 {
    portable::one_stream(block)
}

#[target_feature(enable = "avx2")]
pub(super) fn four_streams(block: &[u64; BLOCK]) -> u64 {
    portable::four_streams(block)
}
