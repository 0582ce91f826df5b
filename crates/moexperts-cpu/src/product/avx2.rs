//! AVX2, FMA and F16C: eight columns a step, four input rows times three weight rows in registers.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{
    dot::{self, DotCall, DotTiles},
    lanes::{self, LaneTiles, LanesCall},
    panel::PANEL,
};

/// f32 values of a register.
const LANES: usize = 8;

/// # Safety
/// The processor has these instruction sets; the rows of the call exist, and `out` holds their
/// results: [`DotCall`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn dot<W: Widen>(call: &DotCall<'_, f32, W>, out: &mut [f32]) {
    // SAFETY: this function is compiled for the instruction sets of the tile; its contract is that
    // of the walk.
    unsafe { dot::walk::<Avx2, f32, W>(call, out) }
}

/// # Safety
/// The processor has these instruction sets; the rows and panels of the call exist, and `out` holds
/// their results: [`LanesCall`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn lanes<W: Widen>(call: &LanesCall<'_, f32, W>, out: &mut [f32]) {
    // SAFETY: this function is compiled for the instruction sets of the tile; its contract is that
    // of the walk.
    unsafe { lanes::walk::<Avx2, f32, W>(call, out) }
}

/// A stored type that becomes eight f32 in a register.
pub(super) trait Widen: Sized {
    /// Widens a row for the tiles of [`LaneTiles`], unless it is f32 already.
    const STAGE: Option<unsafe fn(from: *const Self, to: *mut f32, count: usize)> =
        Some(stage::<Self>);

    /// # Safety
    /// The processor has AVX2 and F16C; eight elements can be read from the pointer on, which is
    /// aligned for one of them.
    unsafe fn widen(from: *const Self) -> __m256;

    /// The rest of the register is zero.
    ///
    /// # Safety
    /// The processor has AVX2 and F16C; `count < 8` elements can be read from the pointer on; no
    /// others are.
    unsafe fn widen_tail(from: *const Self, count: usize) -> __m256;
}

struct Avx2;

impl<W: Widen> DotTiles<f32, W> for Avx2 {
    type Sums = __m256;

    const LANES: usize = LANES;
    // 4 x 3 accumulators, 3 weights and 1 input are the 16 registers, 3 x 4 would leave none for
    // widening.
    const INPUTS: usize = 4;
    const WEIGHTS: usize = 3;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: the processor has AVX2, by the trait's contract.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn step<const I: usize, const R: usize>(
        sums: &mut [[__m256; R]; I],
        inputs: [*const f32; I],
        weights: [*const W; R],
    ) {
        // SAFETY: eight elements can be read at each pointer, by the trait's contract.
        unsafe {
            // The fewer of both stay in registers, the others pass one at a time.
            if I < R {
                let mut x = [_mm256_setzero_ps(); I];
                for i in 0..I {
                    x[i] = _mm256_loadu_ps(inputs[i]);
                }
                for r in 0..R {
                    let w = W::widen(weights[r]);
                    for i in 0..I {
                        sums[i][r] = _mm256_fmadd_ps(x[i], w, sums[i][r]);
                    }
                }
            } else {
                let mut w = [_mm256_setzero_ps(); R];
                for r in 0..R {
                    w[r] = W::widen(weights[r]);
                }
                for i in 0..I {
                    let x = _mm256_loadu_ps(inputs[i]);
                    for r in 0..R {
                        sums[i][r] = _mm256_fmadd_ps(x, w[r], sums[i][r]);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn tail<const I: usize, const R: usize>(
        sums: &mut [[__m256; R]; I],
        inputs: [*const f32; I],
        weights: [*const W; R],
        cols: usize,
    ) {
        // SAFETY: `cols` elements can be read at each pointer, by the trait's contract.
        unsafe {
            for r in 0..R {
                let w = W::widen_tail(weights[r], cols);
                for i in 0..I {
                    sums[i][r] = _mm256_fmadd_ps(f32::widen_tail(inputs[i], cols), w, sums[i][r]);
                }
            }
        }
    }

    /// Halves first.
    #[inline(always)]
    unsafe fn total(lanes: __m256) -> f32 {
        // SAFETY: the processor has AVX2, by the trait's contract.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
}

impl<W: Widen> LaneTiles<f32, W> for Avx2 {
    type Operand = f32;
    type Sums = [__m256; 2];

    // 6 x 2 accumulators, a panel's 2 registers and 1 weight are 15 of the 16 registers.
    const ROWS: usize = 6;
    const PANELS: usize = 1;
    const STAGE: Option<unsafe fn(*const W, *mut f32, usize)> = W::STAGE;

    #[inline(always)]
    unsafe fn zero() -> [__m256; 2] {
        const { assert!(PANEL == 2 * LANES) };
        // SAFETY: the processor has AVX2, by the trait's contract.
        unsafe { [_mm256_setzero_ps(); 2] }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [__m256; 2] {
        // SAFETY: sixteen values can be read there, by the trait's contract.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(LANES))] }
    }

    #[inline(always)]
    unsafe fn store(sums: [__m256; 2], to: *mut f32) {
        // SAFETY: sixteen values can be written there, by the trait's contract.
        unsafe {
            _mm256_storeu_ps(to, sums[0]);
            _mm256_storeu_ps(to.add(LANES), sums[1]);
        }
    }

    #[inline(always)]
    unsafe fn step<const R: usize, const P: usize>(
        sums: &mut [[[__m256; 2]; P]; R],
        panels: [*const f32; P],
        weights: *const f32,
        row_stride: usize,
    ) {
        // SAFETY: sixteen values of each panel and one weight of each row can be read, by the
        // trait's contract.
        unsafe {
            for p in 0..P {
                let x = [_mm256_loadu_ps(panels[p]), _mm256_loadu_ps(panels[p].add(LANES))];
                for r in 0..R {
                    let w = _mm256_broadcast_ss(&*weights.add(r * row_stride));
                    sums[r][p][0] = _mm256_fmadd_ps(w, x[0], sums[r][p][0]);
                    sums[r][p][1] = _mm256_fmadd_ps(w, x[1], sums[r][p][1]);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn odd<const R: usize, const P: usize>(
        _: &mut [[[__m256; 2]; P]; R],
        _: [*const f32; P],
        _: *const f32,
        _: usize,
    ) {
        unreachable!("f32 columns have no partners");
    }
}

/// Widens `count` values, four registers at a time while that many are left: one at a time, the
/// loop would take longer than the loads.
///
/// # Safety
/// The processor has AVX2 and F16C; `count` elements can be read from `from` and written to `to`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn stage<W: Widen>(from: *const W, to: *mut f32, count: usize) {
    let mut k = 0;
    // SAFETY: the registers of each turn end at or before element `count`; the last elements, fewer
    // than a register, are copied one by one.
    unsafe {
        while k + 4 * LANES <= count {
            for k in [k, k + LANES, k + 2 * LANES, k + 3 * LANES] {
                _mm256_storeu_ps(to.add(k), W::widen(from.add(k)));
            }
            k += 4 * LANES;
        }
        while k + LANES <= count {
            _mm256_storeu_ps(to.add(k), W::widen(from.add(k)));
            k += LANES;
        }
        if k < count {
            let mut tail = [0.0; LANES];
            _mm256_storeu_ps(tail.as_mut_ptr(), W::widen_tail(from.add(k), count - k));
            std::ptr::copy_nonoverlapping(tail.as_ptr(), to.add(k), count - k);
        }
    }
}

impl Widen for f32 {
    const STAGE: Option<unsafe fn(*const f32, *mut f32, usize)> = None;

    #[inline(always)]
    unsafe fn widen(from: *const Self) -> __m256 {
        // SAFETY: eight elements can be read there, by the trait's contract.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn widen_tail(from: *const Self, count: usize) -> __m256 {
        // SAFETY: the mask has the lanes below `count`, which can be read; the others are not.
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
/// `count < 8` elements of 16 bits can be read from the pointer on.
#[inline(always)]
unsafe fn padded<T>(from: *const T, count: usize) -> [u16; LANES] {
    let mut values = [0; LANES];
    // SAFETY: `count` elements can be read, by this function's contract, and `values` holds eight.
    unsafe { std::ptr::copy_nonoverlapping(from.cast(), values.as_mut_ptr(), count) };
    values
}

impl Widen for f16 {
    #[inline(always)]
    unsafe fn widen(from: *const Self) -> __m256 {
        // SAFETY: eight elements can be read there, by the trait's contract.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn widen_tail(from: *const Self, count: usize) -> __m256 {
        // SAFETY: `count` elements can be read, by the trait's contract, and `padded` makes eight.
        unsafe { Self::widen(padded(from, count).as_ptr().cast()) }
    }
}

impl Widen for bf16 {
    #[inline(always)]
    unsafe fn widen(from: *const Self) -> __m256 {
        // SAFETY: eight elements can be read there, by the trait's contract.
        unsafe {
            // All eight in both halves, then four of them to the upper bytes of four f32 each: one
            // shuffle, where widening and shifting are two.
            let eight = _mm256_broadcastsi128_si256(_mm_loadu_si128(from.cast()));
            let bytes = _mm256_setr_epi8(
                -1, -1, 0, 1, -1, -1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7, //
                -1, -1, 8, 9, -1, -1, 10, 11, -1, -1, 12, 13, -1, -1, 14, 15,
            );
            _mm256_castsi256_ps(_mm256_shuffle_epi8(eight, bytes))
        }
    }

    #[inline(always)]
    unsafe fn widen_tail(from: *const Self, count: usize) -> __m256 {
        // SAFETY: `count` elements can be read, by the trait's contract, and `padded` makes eight.
        unsafe { Self::widen(padded(from, count).as_ptr().cast()) }
    }
}
