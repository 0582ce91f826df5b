//! AVX-512: sixteen columns a step, five input rows times four weight rows in registers.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{
    PANEL,
    dot::{self, DotCall, DotTiles},
    lanes::{self, LaneTiles, LanesCall},
};

/// f32 values of a register.
const LANES: usize = 16;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn dot<W: Widen>(call: &DotCall<'_, f32, W>, out: &mut [f32]) {
    // SAFETY: this function is compiled for, and called with, the instruction set.
    unsafe { dot::walk::<Avx512, f32, W>(call, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn lanes<W: Widen>(call: &LanesCall<'_, f32, W>, out: &mut [f32]) {
    // SAFETY: this function is compiled for, and called with, the instruction set.
    unsafe { lanes::walk::<Avx512, f32, W>(call, out) }
}

/// A stored type that becomes sixteen f32 in a register.
pub(super) trait Widen: Sized {
    /// Widens a row for the tiles of [`LaneTiles`], unless it is f32 already.
    const STAGE: Option<unsafe fn(from: *const Self, to: *mut f32, count: usize)> =
        Some(stage::<Self>);

    /// # Safety
    /// The processor has AVX-512; the elements of the set bits of `mask` lie behind the pointer.
    /// The other lanes are zero.
    unsafe fn widen(from: *const Self, mask: __mmask16) -> __m512;
}

struct Avx512;

impl<W: Widen> DotTiles<f32, W> for Avx512 {
    type Sums = __m512;

    const LANES: usize = LANES;
    // 5 x 4 accumulators, 4 weights and 1 input are 25 of the 32 registers.
    const INPUTS: usize = 5;
    const WEIGHTS: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: as the trait owes.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn step<const I: usize, const R: usize>(
        sums: &mut [[__m512; R]; I],
        inputs: [*const f32; I],
        weights: [*const W; R],
    ) {
        // SAFETY: as the trait owes.
        unsafe { masked(sums, inputs, weights, !0) }
    }

    #[inline(always)]
    unsafe fn tail<const I: usize, const R: usize>(
        sums: &mut [[__m512; R]; I],
        inputs: [*const f32; I],
        weights: [*const W; R],
        cols: usize,
    ) {
        // SAFETY: as the trait owes.
        unsafe { masked(sums, inputs, weights, (1 << cols) - 1) }
    }

    #[inline(always)]
    unsafe fn total(sums: __m512) -> f32 {
        // SAFETY: as the trait owes.
        unsafe { _mm512_reduce_add_ps(sums) }
    }
}

/// Adds the columns of the set bits of `mask`.
///
/// # Safety
/// The processor has AVX-512; those columns lie behind the pointers.
#[inline(always)]
unsafe fn masked<W: Widen, const I: usize, const R: usize>(
    sums: &mut [[__m512; R]; I],
    inputs: [*const f32; I],
    weights: [*const W; R],
    mask: __mmask16,
) {
    // SAFETY: as the caller owes.
    unsafe {
        let mut w = [_mm512_setzero_ps(); R];
        for r in 0..R {
            w[r] = W::widen(weights[r], mask);
        }
        for i in 0..I {
            let x = f32::widen(inputs[i], mask);
            for r in 0..R {
                sums[i][r] = _mm512_fmadd_ps(x, w[r], sums[i][r]);
            }
        }
    }
}

impl<W: Widen> LaneTiles<f32, W> for Avx512 {
    type Operand = f32;
    type Sums = __m512;

    // 8 x 2 accumulators, 2 panels and 1 weight are 19 of the 32 registers; more rows, a page
    // apart, would fall into one set of the first-level cache.
    const ROWS: usize = 8;
    const PANELS: usize = 2;
    const STAGE: Option<unsafe fn(*const W, *mut f32, usize)> = W::STAGE;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        const { assert!(PANEL == LANES) };
        // SAFETY: as the trait owes.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: as the trait owes.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(sums: __m512, to: *mut f32) {
        // SAFETY: as the trait owes.
        unsafe { _mm512_storeu_ps(to, sums) }
    }

    #[inline(always)]
    unsafe fn step<const R: usize, const P: usize>(
        sums: &mut [[__m512; P]; R],
        panels: [*const f32; P],
        weights: *const f32,
        row_stride: usize,
    ) {
        // SAFETY: as the trait owes.
        unsafe {
            let mut x = [_mm512_setzero_ps(); P];
            for p in 0..P {
                x[p] = _mm512_loadu_ps(panels[p]);
            }
            for r in 0..R {
                let w = _mm512_set1_ps(*weights.add(r * row_stride));
                for p in 0..P {
                    sums[r][p] = _mm512_fmadd_ps(w, x[p], sums[r][p]);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn odd<const R: usize, const P: usize>(
        _: &mut [[__m512; P]; R],
        _: [*const f32; P],
        _: *const f32,
        _: usize,
    ) {
        unreachable!("f32 columns have no partners");
    }
}

/// Widens `count` values, four registers at a time as long as there are so many.
///
/// # Safety
/// The processor has AVX-512; both pointers hold `count` elements.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn stage<W: Widen>(from: *const W, to: *mut f32, count: usize) {
    let mut k = 0;
    // SAFETY: as the caller owes; masked lanes are neither read nor written.
    unsafe {
        while k + 4 * LANES <= count {
            for k in [k, k + LANES, k + 2 * LANES, k + 3 * LANES] {
                _mm512_storeu_ps(to.add(k), W::widen(from.add(k), !0));
            }
            k += 4 * LANES;
        }
        while k < count {
            let mask = if k + LANES <= count { !0 } else { (1 << (count - k)) - 1 };
            _mm512_mask_storeu_ps(to.add(k), mask, W::widen(from.add(k), mask));
            k += LANES;
        }
    }
}

impl Widen for f32 {
    const STAGE: Option<unsafe fn(*const f32, *mut f32, usize)> = None;

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
