//! AVX2, FMA and F16C: eight columns a step, three input rows times four weight rows in registers.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{
    PANEL,
    dot::{self, DotCall, DotTiles, for_each_line},
    lanes::{self, LaneTiles, LanesCall, Tile},
};

/// f32 values of a register.
const LANES: usize = 8;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot<W: Widen>(call: &DotCall<'_, f32, W>, out: &mut [f32]) {
    // SAFETY: this function is compiled for, and called with, the instruction set.
    unsafe { dot::walk::<Avx2, f32, W>(call, out) }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn lanes<W: Widen>(call: &LanesCall<'_, f32, W>, out: &mut [f32]) {
    // SAFETY: this function is compiled for, and called with, the instruction set.
    unsafe { lanes::walk::<Avx2, f32, W>(call, out) }
}

/// A stored type that becomes eight f32 in a register.
pub(super) trait Widen: Sized {
    /// Widens a row for the tiles of [`LaneTiles`], unless it is f32 already.
    const STAGE: Option<unsafe fn(from: *const Self, to: *mut f32, count: usize)> =
        Some(stage::<Self>);

    /// # Safety
    /// The processor has AVX2 and F16C; eight elements lie behind the pointer.
    unsafe fn widen(from: *const Self) -> __m256;

    /// # Safety
    /// The processor has AVX2 and F16C; `count < 8` elements lie behind the pointer. The rest of
    /// the register is zero.
    unsafe fn widen_tail(from: *const Self, count: usize) -> __m256;
}

struct Avx2;

impl<W: Widen> DotTiles<f32, W> for Avx2 {
    // 4 x 3 accumulators, 3 weights and 1 input are the 16 registers.
    const INPUTS: usize = 4;
    const WEIGHTS: usize = 3;

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
            let mut sums = [[_mm256_setzero_ps(); R]; I];
            let step = |sums: &mut [[__m256; R]; I], x: [__m256; I], w: [__m256; R]| {
                for i in 0..I {
                    for r in 0..R {
                        sums[i][r] = _mm256_fmadd_ps(x[i], w[r], sums[i][r]);
                    }
                }
            };
            let whole = |sums: &mut [[__m256; R]; I], k: usize| {
                let x = inputs.map(|row| _mm256_loadu_ps(row.add(k)));
                step(sums, x, weights.map(|row| W::widen(row.add(k))));
            };
            for_each_line(
                &mut sums,
                cols,
                ahead,
                |sums, line| {
                    for k in (0..64 / size_of::<W>()).step_by(LANES) {
                        whole(sums, line + k);
                    }
                },
                |sums, mut k| {
                    while k + LANES <= cols {
                        whole(sums, k);
                        k += LANES;
                    }
                    if k < cols {
                        let x = inputs.map(|row| f32::widen_tail(row.add(k), cols - k));
                        step(sums, x, weights.map(|row| W::widen_tail(row.add(k), cols - k)));
                    }
                },
            );
            for i in 0..I {
                for r in 0..R {
                    *out.add(i * out_stride + r) = total(sums[i][r]);
                }
            }
        }
    }
}

impl<W: Widen> LaneTiles<f32, W> for Avx2 {
    type Operand = f32;

    // 6 x 2 accumulators, a panel's 2 registers and 1 weight are 15 of the 16 registers.
    const ROWS: usize = 6;
    const PANELS: usize = 1;
    const STAGE: Option<unsafe fn(*const W, *mut f32, usize)> = W::STAGE;

    #[inline(always)]
    unsafe fn tile<const R: usize, const P: usize>(tile: &Tile<f32, W, f32>) {
        const { assert!(PANEL == 2 * LANES) };
        let (panel, sums) = (tile.panels[0], tile.sums[0]);
        // SAFETY: the caller has the instruction set and gives the rows, the panel and the sums.
        unsafe {
            let mut acc = [[_mm256_setzero_ps(); 2]; R];
            if !tile.begin {
                for r in 0..R {
                    let sums = sums.add(r * PANEL);
                    acc[r] = [_mm256_loadu_ps(sums), _mm256_loadu_ps(sums.add(LANES))];
                }
            }
            let step = |acc: &mut [[__m256; 2]; R], k: usize| {
                let x = panel.add(k * tile.step_stride);
                let x = [_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(LANES))];
                for r in 0..R {
                    let w = _mm256_broadcast_ss(&*tile.weights.add(r * tile.row_stride + k));
                    acc[r] = [_mm256_fmadd_ps(w, x[0], acc[r][0]), _mm256_fmadd_ps(w, x[1], acc[r][1])];
                }
            };
            let mut k = 0;
            while k + 32 <= tile.cols {
                tile.prefetch::<R, 32>(k);
                for _ in 0..4 {
                    for u in 0..8 {
                        step(&mut acc, k + u);
                    }
                    k += 8;
                }
            }
            while k < tile.cols {
                step(&mut acc, k);
                k += 1;
            }
            for r in 0..R {
                let sums = sums.add(r * PANEL);
                _mm256_storeu_ps(sums, acc[r][0]);
                _mm256_storeu_ps(sums.add(LANES), acc[r][1]);
            }
        }
    }
}

/// Widens `count` values one register at a time.
///
/// # Safety
/// The processor has AVX2 and F16C; both pointers hold `count` elements.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn stage<W: Widen>(from: *const W, to: *mut f32, count: usize) {
    let mut k = 0;
    // SAFETY: as the caller owes.
    unsafe {
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
    const STAGE: Option<unsafe fn(*const f32, *mut f32, usize)> = None;

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
