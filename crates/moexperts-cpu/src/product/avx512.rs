//! AVX-512: sixteen columns a step, five input rows times four weight rows in registers.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{
    dot::{self, DotCall},
    lanes::{self, LanesCall},
    zmm::{Arithmetic, Zmm},
};

/// f32 values of a register.
const LANES: usize = 16;

/// # Safety
/// The processor has these instruction sets; the rows of the call exist, and `out` holds their
/// results: [`DotCall`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn dot<W: Widen>(call: &DotCall<'_, f32, W>, out: &mut [f32]) {
    // SAFETY: this function is compiled for the instruction sets of the tile; its contract is that
    // of the walk.
    unsafe { dot::walk::<Zmm<FusedProducts>, f32, W>(call, out) }
}

/// # Safety
/// The processor has these instruction sets; the rows and panels of the call exist, and `out` holds
/// their results: [`LanesCall`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn lanes<W: Widen>(call: &LanesCall<'_, f32, W>, out: &mut [f32]) {
    // SAFETY: this function is compiled for the instruction sets of the tile; its contract is that
    // of the walk.
    unsafe { lanes::walk::<Zmm<FusedProducts>, f32, W>(call, out) }
}

/// A stored type that becomes sixteen f32 in a register.
pub(super) trait Widen: Sized {
    /// Widens a row for the tiles of [`LaneTiles`](lanes::LaneTiles), unless it is f32 already.
    const STAGE: Option<unsafe fn(from: *const Self, to: *mut f32, count: usize)> =
        Some(stage::<Self>);

    /// Loads the elements of the set bits of `mask`; the other lanes are zero.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VL; those elements can be read from the pointer on,
    /// which is aligned for one of them. No other element is read.
    unsafe fn widen(from: *const Self, mask: __mmask16) -> __m512;
}

/// One product of f32 for each sum.
struct FusedProducts;

impl<W: Widen> Arithmetic<f32, W> for FusedProducts {
    type Operand = f32;
    type Factors = __m512;

    const COLUMNS: usize = LANES;
    const STAGE: Option<unsafe fn(*const W, *mut f32, usize)> = W::STAGE;

    #[inline(always)]
    unsafe fn inputs(from: *const f32, count: usize) -> __m512 {
        // SAFETY: the lanes of the mask are the `count` elements that can be read.
        unsafe { f32::widen(from, first_lanes(count)) }
    }

    #[inline(always)]
    unsafe fn weights(from: *const W, count: usize) -> __m512 {
        // SAFETY: the lanes of the mask are the `count` elements that can be read.
        unsafe { W::widen(from, first_lanes(count)) }
    }

    #[inline(always)]
    unsafe fn broadcast(from: *const f32) -> __m512 {
        // SAFETY: one element can be read, by the trait's contract.
        unsafe { _mm512_set1_ps(*from) }
    }

    #[inline(always)]
    unsafe fn broadcast_odd(_: *const f32) -> __m512 {
        unreachable!("f32 columns have no partners");
    }

    #[inline(always)]
    unsafe fn add_products(sums: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the processor has AVX-512, by the trait's contract.
        unsafe { _mm512_fmadd_ps(a, b, sums) }
    }
}

/// The mask of the first `count` lanes.
#[inline(always)]
fn first_lanes(count: usize) -> __mmask16 {
    u16::MAX.unbounded_shr((LANES - count) as u32)
}

/// Widens `count` values, four registers at a time while that many are left: one at a time, the
/// loop would take longer than the loads.
///
/// # Safety
/// The processor has these instruction sets; `count` elements can be read from `from` and written
/// to `to`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn stage<W: Widen>(from: *const W, to: *mut f32, count: usize) {
    let mut k = 0;
    // SAFETY: the registers of each turn end at or before element `count`; the last is masked to
    // end there, and masked lanes are neither read nor written.
    unsafe {
        while k + 4 * LANES <= count {
            for k in [k, k + LANES, k + 2 * LANES, k + 3 * LANES] {
                _mm512_storeu_ps(to.add(k), W::widen(from.add(k), !0));
            }
            k += 4 * LANES;
        }
        while k < count {
            let mask = first_lanes(LANES.min(count - k));
            _mm512_mask_storeu_ps(to.add(k), mask, W::widen(from.add(k), mask));
            k += LANES;
        }
    }
}

impl Widen for f32 {
    const STAGE: Option<unsafe fn(*const f32, *mut f32, usize)> = None;

    #[inline(always)]
    unsafe fn widen(from: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: the lanes of the mask can be read, by the trait's contract; the others are not.
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }
}

impl Widen for f16 {
    #[inline(always)]
    unsafe fn widen(from: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: the lanes of the mask can be read, by the trait's contract; the others are not.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from.cast())) }
    }
}

impl Widen for bf16 {
    #[inline(always)]
    unsafe fn widen(from: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: the lanes of the mask can be read, by the trait's contract; the others are not.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
}
