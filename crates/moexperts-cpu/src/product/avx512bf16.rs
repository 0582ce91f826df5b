//! AVX512-BF16: pairs of bf16 products added in f32.

use std::arch::x86_64::*;

use half::bf16;

use super::{
    PANEL,
    dot::{self, DotCall, DotTiles},
    lanes::{self, LaneTiles, LanesCall},
};

/// bf16 values of a register.
const LANES: usize = 32;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn dot(call: &DotCall<'_, bf16, bf16>, out: &mut [f32]) {
    // SAFETY: this function is compiled for, and called with, the instruction set.
    unsafe { dot::walk::<Avx512Bf16, bf16, bf16>(call, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn lanes(call: &LanesCall<'_, bf16, bf16>, out: &mut [f32]) {
    // SAFETY: this function is compiled for, and called with, the instruction set.
    unsafe { lanes::walk::<Avx512Bf16, bf16, bf16>(call, out) }
}

struct Avx512Bf16;

impl DotTiles<bf16, bf16> for Avx512Bf16 {
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
        inputs: [*const bf16; I],
        weights: [*const bf16; R],
    ) {
        // SAFETY: as the trait owes.
        unsafe { masked(sums, inputs, weights, !0) }
    }

    #[inline(always)]
    unsafe fn tail<const I: usize, const R: usize>(
        sums: &mut [[__m512; R]; I],
        inputs: [*const bf16; I],
        weights: [*const bf16; R],
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
/// The processor has AVX512-BF16; those columns lie behind the pointers.
#[inline(always)]
unsafe fn masked<const I: usize, const R: usize>(
    sums: &mut [[__m512; R]; I],
    inputs: [*const bf16; I],
    weights: [*const bf16; R],
    mask: __mmask32,
) {
    // SAFETY: as the caller owes.
    unsafe {
        let mut w = [load(weights[0], mask); R];
        for r in 1..R {
            w[r] = load(weights[r], mask);
        }
        for i in 0..I {
            let x = load(inputs[i], mask);
            for r in 0..R {
                sums[i][r] = _mm512_dpbf16_ps(sums[i][r], x, w[r]);
            }
        }
    }
}

impl LaneTiles<bf16, bf16> for Avx512Bf16 {
    type Operand = bf16;
    type Sums = __m512;

    // 8 x 2 accumulators, 2 panels and 1 pair of weights are 19 of the 32 registers; more rows, a
    // page apart, would fall into one set of the first-level cache.
    const ROWS: usize = 8;
    const PANELS: usize = 2;
    const STAGE: Option<unsafe fn(*const bf16, *mut bf16, usize)> = None;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        const { assert!(2 * PANEL == LANES) };
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
        panels: [*const bf16; P],
        weights: *const bf16,
        row_stride: usize,
    ) {
        // SAFETY: as the trait owes.
        unsafe {
            let mut pairs = [0; R];
            for r in 0..R {
                pairs[r] = weights.add(r * row_stride).cast::<i32>().read_unaligned();
            }
            add_pairs(sums, panels, pairs);
        }
    }

    #[inline(always)]
    unsafe fn odd<const R: usize, const P: usize>(
        sums: &mut [[__m512; P]; R],
        panels: [*const bf16; P],
        weights: *const bf16,
        row_stride: usize,
    ) {
        // SAFETY: as the trait owes.
        unsafe {
            let mut singles = [0; R];
            for r in 0..R {
                singles[r] = i32::from((*weights.add(r * row_stride)).to_bits());
            }
            add_pairs(sums, panels, singles);
        }
    }
}

/// Adds a pair of weights in each row, times a pair of columns of each panel.
///
/// # Safety
/// The processor has AVX512-BF16; the pair of columns lies behind the pointers.
#[inline(always)]
unsafe fn add_pairs<const R: usize, const P: usize>(
    sums: &mut [[__m512; P]; R],
    panels: [*const bf16; P],
    weights: [i32; R],
) {
    // SAFETY: as the caller owes.
    unsafe {
        let mut x = [load(panels[0], !0); P];
        for p in 1..P {
            x[p] = load(panels[p], !0);
        }
        for r in 0..R {
            let w = as_bf16(_mm512_set1_epi32(weights[r]));
            for p in 0..P {
                sums[r][p] = _mm512_dpbf16_ps(sums[r][p], w, x[p]);
            }
        }
    }
}

/// # Safety
/// The processor has AVX-512 BW; the elements of the set bits of `mask` lie behind the pointer.
/// The other lanes are zero.
#[inline(always)]
unsafe fn load(from: *const bf16, mask: __mmask32) -> __m512bh {
    // SAFETY: masked lanes are not read.
    as_bf16(unsafe { _mm512_maskz_loadu_epi16(mask, from.cast()) })
}

#[inline(always)]
fn as_bf16(bits: __m512i) -> __m512bh {
    // SAFETY: both types are 64 bytes of plain bits.
    unsafe { std::mem::transmute(bits) }
}
