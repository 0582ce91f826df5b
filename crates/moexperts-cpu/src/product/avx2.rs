//! AVX2, FMA and F16C: eight columns a step, three input rows times four weight rows in registers.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{
    TypedCall,
    tiles::{Tiles, walk},
};

/// Columns of one step.
const LANES: usize = 8;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn block<W: Widen>(call: &TypedCall<'_, f32, W>, out: &mut [f32]) {
    // SAFETY: this function is compiled for, and called with, the instruction set.
    unsafe { walk::<Avx2, f32, W>(call, out) }
}

/// A stored type that becomes eight f32 in a register.
pub(super) trait Widen {
    /// # Safety
    /// The processor has AVX2 and F16C; eight elements lie behind the pointer.
    unsafe fn widen(from: *const Self) -> __m256;

    /// # Safety
    /// The processor has AVX2 and F16C; `count < 8` elements lie behind the pointer. The rest of
    /// the register is zero.
    unsafe fn widen_tail(from: *const Self, count: usize) -> __m256;
}

struct Avx2;

impl<W: Widen> Tiles<f32, W> for Avx2 {
    // 3 x 4 accumulators, 3 inputs and 1 weight are the 16 registers.
    const INPUTS: usize = 3;

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
            let mut sums = [[_mm256_setzero_ps(); R]; I];
            let whole = cols - cols % LANES;
            let mut k = 0;
            while k < whole {
                let x = inputs.map(|row| _mm256_loadu_ps(row.add(k)));
                for r in 0..R {
                    let w = W::widen(weights[r].add(k));
                    for i in 0..I {
                        sums[i][r] = _mm256_fmadd_ps(x[i], w, sums[i][r]);
                    }
                }
                k += LANES;
            }
            if whole < cols {
                let x = inputs.map(|row| f32::widen_tail(row.add(whole), cols - whole));
                for r in 0..R {
                    let w = W::widen_tail(weights[r].add(whole), cols - whole);
                    for i in 0..I {
                        sums[i][r] = _mm256_fmadd_ps(x[i], w, sums[i][r]);
                    }
                }
            }
            for i in 0..I {
                for r in 0..R {
                    *out.add(i * out_stride + r) = total(sums[i][r]);
                }
            }
        }
    }
}

/// The sum of the eight lanes, halves first.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn total(lanes: __m256) -> f32 {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

impl Widen for f32 {
    #[inline(always)]
    unsafe fn widen(from: *const Self) -> __m256 {
        // SAFETY: eight elements lie there.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn widen_tail(from: *const Self, count: usize) -> __m256 {
        // SAFETY: the lanes past `count` are not read.
        unsafe {
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lane);
            _mm256_maskload_ps(from, mask)
        }
    }
}

/// Fewer than eight 16-bit elements, followed by zeros.
///
/// # Safety
/// `count < 8` elements lie behind the pointer.
#[inline(always)]
unsafe fn padded<T>(from: *const T, count: usize) -> [u16; LANES] {
    let mut values = [0; LANES];
    // SAFETY: the caller gives `count` elements of 16 bits, and `values` has room for eight.
    unsafe { std::ptr::copy_nonoverlapping(from.cast(), values.as_mut_ptr(), count) };
    values
}

impl Widen for f16 {
    #[inline(always)]
    unsafe fn widen(from: *const Self) -> __m256 {
        // SAFETY: eight elements lie there.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn widen_tail(from: *const Self, count: usize) -> __m256 {
        // SAFETY: `padded` holds eight elements.
        unsafe { Self::widen(padded(from, count).as_ptr().cast()) }
    }
}

impl Widen for bf16 {
    #[inline(always)]
    unsafe fn widen(from: *const Self) -> __m256 {
        // SAFETY: eight elements lie there.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn widen_tail(from: *const Self, count: usize) -> __m256 {
        // SAFETY: `padded` holds eight elements.
        unsafe { Self::widen(padded(from, count).as_ptr().cast()) }
    }
}
