//! AVX-512: sixteen columns a step, five input rows times four weight rows in registers.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{
    TypedCall,
    tiles::{Tiles, walk},
};

/// Columns of one step.
const LANES: usize = 16;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn block<W: Widen>(call: &TypedCall<'_, f32, W>, out: &mut [f32]) {
    // SAFETY: this function is compiled for, and called with, the instruction set.
    unsafe { walk::<Avx512, f32, W>(call, out) }
}

/// A stored type that becomes sixteen f32 in a register.
pub(super) trait Widen {
    /// # Safety
    /// The processor has AVX-512; the elements of the set bits of `mask` lie behind the pointer.
    /// The other lanes are zero.
    unsafe fn widen(from: *const Self, mask: __mmask16) -> __m512;
}

struct Avx512;

impl<W: Widen> Tiles<f32, W> for Avx512 {
    // 5 x 4 accumulators, 5 inputs and 1 weight are 26 of the 32 registers.
    const INPUTS: usize = 5;

    #[inline(always)]
    unsafe fn tile<const I: usize, const R: usize>(
        inputs: [*const f32; I],
        weights: [*const W; R],
        cols: usize,
        out: *mut f32,
        out_stride: usize,
    ) {
        // SAFETY: the caller has the instruction set and gives `cols` elements behind each
        // pointer and room for every output.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); R]; I];
            let mut step = |k: usize, mask: __mmask16| {
                let x = inputs.map(|row| f32::widen(row.add(k), mask));
                for r in 0..R {
                    let w = W::widen(weights[r].add(k), mask);
                    for i in 0..I {
                        sums[i][r] = _mm512_fmadd_ps(x[i], w, sums[i][r]);
                    }
                }
            };
            let whole = cols - cols % LANES;
            let mut k = 0;
            while k < whole {
                step(k, !0);
                k += LANES;
            }
            if whole < cols {
                step(whole, (1 << (cols - whole)) - 1);
            }
            for i in 0..I {
                for r in 0..R {
                    *out.add(i * out_stride + r) = _mm512_reduce_add_ps(sums[i][r]);
                }
            }
        }
    }
}

impl Widen for f32 {
    #[inline(always)]
    unsafe fn widen(from: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: masked lanes are not read.
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }
}

impl Widen for f16 {
    #[inline(always)]
    unsafe fn widen(from: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: masked lanes are not read.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from.cast())) }
    }
}

impl Widen for bf16 {
    #[inline(always)]
    unsafe fn widen(from: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: masked lanes are not read.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
}
