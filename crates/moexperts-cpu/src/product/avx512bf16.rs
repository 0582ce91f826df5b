//! AVX512-BF16: pairs of bf16 products added in f32.

use std::arch::x86_64::*;

use half::bf16;

use super::{
    PANEL,
    dot::{self, DotCall, DotTiles, for_each_line},
    lanes::{self, LaneTiles, LanesCall, Tile},
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
    // 5 x 4 accumulators, 4 weights and 1 input are 25 of the 32 registers.
    const INPUTS: usize = 5;
    const WEIGHTS: usize = 4;

    #[inline(always)]
    unsafe fn tile<const I: usize, const R: usize>(
        inputs: [*const bf16; I],
        weights: [*const bf16; R],
        ahead: [*const bf16; R],
        cols: usize,
        out: *mut f32,
        out_stride: usize,
    ) {
        // SAFETY: the caller has the instruction set and gives `cols` elements behind each
        // pointer and room for every output.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); R]; I];
            let step = |sums: &mut [[__m512; R]; I], k: usize, mask: __mmask32| {
                let w = weights.map(|row| load(row.add(k), mask));
                for i in 0..I {
                    let x = load(inputs[i].add(k), mask);
                    for r in 0..R {
                        sums[i][r] = _mm512_dpbf16_ps(sums[i][r], x, w[r]);
                    }
                }
            };
            for_each_line(
                &mut sums,
                cols,
                ahead,
                |sums, line| step(sums, line, !0),
                |sums, k| step(sums, k, (1 << (cols - k)) - 1),
            );
            for i in 0..I {
                for r in 0..R {
                    *out.add(i * out_stride + r) = _mm512_reduce_add_ps(sums[i][r]);
                }
            }
        }
    }
}

impl LaneTiles<bf16, bf16> for Avx512Bf16 {
    type Operand = bf16;

    // 8 x 2 accumulators and 2 panels are 18 of the 32 registers, a pair of weights is broadcast
    // by the instruction; more rows, a page apart, would fall into one set of the first-level
    // cache.
    const ROWS: usize = 8;
    const PANELS: usize = 2;
    const STAGE: Option<unsafe fn(*const bf16, *mut bf16, usize)> = None;

    #[inline(always)]
    unsafe fn tile<const R: usize, const P: usize>(tile: &Tile<bf16, bf16, bf16>) {
        const { assert!(2 * PANEL == LANES) };
        // SAFETY: the caller has the instruction set and gives the rows, the panels and the sums.
        unsafe {
            let mut acc = [[_mm512_setzero_ps(); P]; R];
            if !tile.begin {
                for r in 0..R {
                    for p in 0..P {
                        acc[r][p] = _mm512_loadu_ps(tile.sums[p].add(r * PANEL));
                    }
                }
            }
            let step = |acc: &mut [[__m512; P]; R], pair: usize, weights: [i32; R]| {
                let mut x = [load(tile.panels[0].add(pair * tile.step_stride), !0); P];
                for p in 1..P {
                    x[p] = load(tile.panels[p].add(pair * tile.step_stride), !0);
                }
                for r in 0..R {
                    let w = as_bf16(_mm512_set1_epi32(weights[r]));
                    for p in 0..P {
                        acc[r][p] = _mm512_dpbf16_ps(acc[r][p], w, x[p]);
                    }
                }
            };
            let weight = |r: usize, k: usize| tile.weights.add(r * tile.row_stride + k);
            let pair = |k: usize| {
                std::array::from_fn(|r| weight(r, k).cast::<i32>().read_unaligned())
            };
            let mut k = 0;
            while k + 32 <= tile.cols {
                tile.prefetch::<R, 32>(k);
                for _ in 0..4 {
                    for u in (0..8).step_by(2) {
                        step(&mut acc, (k + u) / 2, pair(k + u));
                    }
                    k += 8;
                }
            }
            while k + 2 <= tile.cols {
                step(&mut acc, k / 2, pair(k));
                k += 2;
            }
            if k < tile.cols {
                // The last column has no partner; the panel holds a zero for it.
                let single = |r: usize| i32::from((*weight(r, k)).to_bits());
                step(&mut acc, k / 2, std::array::from_fn(single));
            }
            for r in 0..R {
                for p in 0..P {
                    _mm512_storeu_ps(tile.sums[p].add(r * PANEL), acc[r][p]);
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
    // SAFETY: masked lanes are not read.
    as_bf16(unsafe { _mm512_maskz_loadu_epi16(mask, from.cast()) })
}

#[inline(always)]
fn as_bf16(bits: __m512i) -> __m512bh {
    // SAFETY: both types are 64 bytes of plain bits.
    unsafe { std::mem::transmute(bits) }
}
