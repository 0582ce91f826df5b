//! AVX512-BF16: thirty-two columns a step, pairs of bf16 products added in f32.

use std::arch::x86_64::*;

use half::bf16;

use super::{
    TypedCall,
    tiles::{Tiles, walk},
};

/// Columns of one step.
const LANES: usize = 32;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn block(call: &TypedCall<'_, bf16, bf16>, out: &mut [f32]) {
    // SAFETY: this function is compiled for, and called with, the instruction set.
    unsafe { walk::<Avx512Bf16, bf16, bf16>(call, out) }
}

struct Avx512Bf16;

impl Tiles<bf16, bf16> for Avx512Bf16 {
    // 5 x 4 accumulators, 5 inputs and 1 weight are 26 of the 32 registers.
    const INPUTS: usize = 5;

    #[inline(always)]
    unsafe fn tile<const I: usize, const R: usize>(
        inputs: [*const bf16; I],
        weights: [*const bf16; R],
        cols: usize,
        out: *mut f32,
        out_stride: usize,
    ) {
        // SAFETY: the caller has the instruction set and gives `cols` elements behind each
        // pointer and room for every output.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); R]; I];
            let mut step = |k: usize, mask: __mmask32| {
                let x = inputs.map(|row| load(row.add(k), mask));
                for r in 0..R {
                    let w = load(weights[r].add(k), mask);
                    for i in 0..I {
                        sums[i][r] = _mm512_dpbf16_ps(sums[i][r], x[i], w);
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

/// # Safety
/// The processor has AVX-512 BW; the elements of the set bits of `mask` lie behind the pointer.
/// The other lanes are zero.
#[inline(always)]
unsafe fn load(from: *const bf16, mask: __mmask32) -> __m512bh {
    // SAFETY: masked lanes are not read; both types are 64 bytes of plain bits.
    unsafe { std::mem::transmute(_mm512_maskz_loadu_epi16(mask, from.cast())) }
}
