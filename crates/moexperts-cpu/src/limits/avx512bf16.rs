//! AVX512-BF16: sixteen lanes, two products of bf16 each.

use std::arch::x86_64::*;

use half::bf16;

use super::sizes::CHAINS;

/// Operations of one step of one chain.
pub(super) const FLOPS: u64 = 2 * 32;

#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn chains(starts: &[f32; CHAINS], factor: f32, summand: f32, steps: u64) -> f32 {
    let (factor, summand) = (pairs(factor), pairs(summand));
    let mut sums = [_mm512_setzero_ps(); CHAINS];
    for chain in 0..CHAINS {
        sums[chain] = _mm512_set1_ps(starts[chain]);
    }
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, factor, summand);
        }
    }
    let mut total = 0.0;
    for sum in sums {
        total += _mm512_reduce_add_ps(sum);
    }
    total
}

/// The value, rounded, in all thirty-two lanes.
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(value: f32) -> __m512bh {
    let bits = u32::from(bf16::from_f32(value).to_bits());
    let lanes = _mm512_set1_epi32((bits << 16 | bits) as i32);
    // SAFETY: both types are 64 bytes of plain bits.
    unsafe { std::mem::transmute(lanes) }
}
