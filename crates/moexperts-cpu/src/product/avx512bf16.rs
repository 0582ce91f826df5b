//! AVX512-BF16: pairs of bf16 products added in f32.

use std::arch::x86_64::*;

use half::bf16;

use super::{
    dot::{self, DotCall},
    lanes::{self, LanesCall},
    zmm::{Arithmetic, Zmm},
};

/// bf16 values of a register.
const LANES: usize = 32;

/// # Safety
/// The processor has these instruction sets; the rows of the call exist, and `out` holds their
/// results: [`DotCall`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn dot(call: &DotCall<'_, bf16, bf16>, out: &mut [f32]) {
    // SAFETY: this function is compiled for the instruction sets of the tile; its contract is that
    // of the walk.
    unsafe { dot::walk::<Zmm<PairProducts>, bf16, bf16>(call, out) }
}

/// # Safety
/// The processor has these instruction sets; the rows and panels of the call exist, and `out` holds
/// their results: [`LanesCall`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn lanes(call: &LanesCall<'_, bf16, bf16>, out: &mut [f32]) {
    // SAFETY: this function is compiled for the instruction sets of the tile; its contract is that
    // of the walk.
    unsafe { lanes::walk::<Zmm<PairProducts>, bf16, bf16>(call, out) }
}

/// Two products of bf16 for each sum of f32.
struct PairProducts;

impl Arithmetic<bf16, bf16> for PairProducts {
    type Operand = bf16;
    type Factors = __m512bh;

    const COLUMNS: usize = LANES;
    const STAGE: Option<unsafe fn(*const bf16, *mut bf16, usize)> = None;

    #[inline(always)]
    unsafe fn inputs(from: *const bf16, count: usize) -> __m512bh {
        let mask = u32::MAX.unbounded_shr((LANES - count) as u32);
        // SAFETY: the lanes of the mask are the `count` elements that can be read; the others are
        // not read.
        as_bf16(unsafe { _mm512_maskz_loadu_epi16(mask, from.cast()) })
    }

    #[inline(always)]
    unsafe fn weights(from: *const bf16, count: usize) -> __m512bh {
        // SAFETY: weights and inputs are of one type.
        unsafe { Self::inputs(from, count) }
    }

    #[inline(always)]
    unsafe fn broadcast(from: *const bf16) -> __m512bh {
        // SAFETY: a pair of elements can be read; it is aligned for one of them.
        as_bf16(unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) })
    }

    #[inline(always)]
    unsafe fn broadcast_odd(from: *const bf16) -> __m512bh {
        // The upper half of each pair is zero.
        // SAFETY: one element can be read.
        as_bf16(unsafe { _mm512_set1_epi32(i32::from((*from).to_bits())) })
    }

    #[inline(always)]
    unsafe fn add_products(sums: __m512, a: __m512bh, b: __m512bh) -> __m512 {
        // SAFETY: the processor has AVX512-BF16, by the trait's contract.
        unsafe { _mm512_dpbf16_ps(sums, a, b) }
    }
}

#[inline(always)]
fn as_bf16(bits: __m512i) -> __m512bh {
    // SAFETY: both types are 64 bytes of plain bits.
    unsafe { std::mem::transmute(bits) }
}
