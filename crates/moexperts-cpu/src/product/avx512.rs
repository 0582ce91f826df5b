//! AVX-512: sixteen columns a step, five input rows times four weight rows in registers.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{
    PANEL,
    dot::{self, DotCall, DotTiles, for_each_line},
    lanes::{self, LaneTiles, LanesCall, Tile},
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
    // 5 x 4 accumulators, 4 weights and 1 input are 25 of the 32 registers.
    const INPUTS: usize = 5;
    const WEIGHTS: usize = 4;

    #[inline(always)]
    unsafe fn tile<const I: usize, const R: usize>(
        inputs: [*const f32; I],
        weights: [*const W; R],
        ahead: [*const W; R],
        cols: usize,
        out: *mut f32,
        out_stride: usize,
    ) {
        // SAFETY: the caller has the instruction set and gives `cols` elements behind each
        // pointer and room for every output.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); R]; I];
            let step = |sums: &mut [[__m512; R]; I], k: usize, mask: __mmask16| {
                let w = weights.map(|row| W::widen(row.add(k), mask));
                for i in 0..I {
                    let x = f32::widen(inputs[i].add(k), mask);
                    for r in 0..R {
                        sums[i][r] = _mm512_fmadd_ps(x, w[r], sums[i][r]);
                    }
                }
            };
            for_each_line(
                &mut sums,
                cols,
                ahead,
                |sums, line| {
                    for k in (0..64 / size_of::<W>()).step_by(LANES) {
                        step(sums, line + k, !0);
                    }
                },
                |sums, mut k| {
                    while k + LANES <= cols {
                        step(sums, k, !0);
                        k += LANES;
                    }
                    if k < cols {
                        step(sums, k, (1 << (cols - k)) - 1);
                    }
                },
            );
            for i in 0..I {
                for r in 0..R {
                    *out.add(i * out_stride + r) = _mm512_reduce_add_ps(sums[i][r]);
                }
            }
        }
    }
}

impl<W: Widen> LaneTiles<f32, W> for Avx512 {
    type Operand = f32;

    // 8 x 2 accumulators, 2 panels and 1 weight are 19 of the 32 registers; more rows, a page
    // apart, would fall into one set of the first-level cache.
    const ROWS: usize = 8;
    const PANELS: usize = 2;
    const STAGE: Option<unsafe fn(*const W, *mut f32, usize)> = W::STAGE;

    #[inline(always)]
    unsafe fn tile<const R: usize, const P: usize>(tile: &Tile<f32, W, f32>) {
        const { assert!(PANEL == LANES) };
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
            let step = |acc: &mut [[__m512; P]; R], k: usize| {
                let mut x = [_mm512_setzero_ps(); P];
                for p in 0..P {
                    x[p] = _mm512_loadu_ps(tile.panels[p].add(k * tile.step_stride));
                }
                for r in 0..R {
                    let w = _mm512_set1_ps(*tile.weights.add(r * tile.row_stride + k));
                    for p in 0..P {
                        acc[r][p] = _mm512_fmadd_ps(w, x[p], acc[r][p]);
                    }
                }
            };
            let mut k = 0;
            while k + 32 <= tile.cols {
                tile.prefetch::<R, 32>(k);
                for _ in 0..8 {
                    for u in 0..4 {
                        step(&mut acc, k + u);
                    }
                    k += 4;
                }
            }
            while k < tile.cols {
                step(&mut acc, k);
                k += 1;
            }
            for r in 0..R {
                for p in 0..P {
                    _mm512_storeu_ps(tile.sums[p].add(r * PANEL), acc[r][p]);
                }
            }
        }
    }
}

/// Widens `count` values one register at a time.
///
/// # Safety
/// The processor has AVX-512; both pointers hold `count` elements.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn stage<W: Widen>(from: *const W, to: *mut f32, count: usize) {
    for k in (0..count).step_by(LANES) {
        let mask = if k + LANES <= count { !0 } else { (1 << (count - k)) - 1 };
        // SAFETY: as the caller owes; masked lanes are neither read nor written.
        unsafe { _mm512_mask_storeu_ps(to.add(k), mask, W::widen(from.add(k), mask)) };
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
