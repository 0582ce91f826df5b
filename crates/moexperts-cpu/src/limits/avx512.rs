//! AVX-512: sixteen lanes.

use std::arch::x86_64::*;

use super::sizes::{BLOCK, CHAINS, ROW, STEP};

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

// Written out: left to itself, the compiler makes gathers of these loops.

#[target_feature(enable = "avx512f")]
pub(super) fn one_stream(block: &[u64; BLOCK]) -> u64 {
    let mut sums = [_mm512_setzero_si512(); 2];
    for values in block.as_chunks().0 {
        add(&mut sums, values);
    }
    total(sums)
}

#[target_feature(enable = "avx512f")]
pub(super) fn four_streams(block: &[u64; BLOCK]) -> u64 {
    let mut sums = [_mm512_setzero_si512(); 2];
    for rows in block.as_chunks::<ROW>().0.as_chunks::<4>().0 {
        for step in 0..ROW / STEP {
            for row in rows {
                add(&mut sums, &row.as_chunks().0[step]);
            }
        }
    }
    total(sums)
}

#[target_feature(enable = "avx512f")]
fn add(sums: &mut [__m512i; 2], values: &[u64; STEP]) {
    for (half, sum) in sums.iter_mut().enumerate() {
        // SAFETY: the values are `STEP` of 64 bits: two registers.
        let values = unsafe { _mm512_loadu_si512(values.as_ptr().add(8 * half).cast()) };
        *sum = _mm512_xor_si512(*sum, values);
    }
}

#[target_feature(enable = "avx512f")]
fn total(sums: [__m512i; 2]) -> u64 {
    let mut lanes = [0; 8];
    // SAFETY: `lanes` is as large as a register.
    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), _mm512_xor_si512(sums[0], sums[1])) };
    lanes.iter().fold(0_u64, |sum, lane| sum ^ lane)
}
