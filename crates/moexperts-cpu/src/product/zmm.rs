//! Tiles of 512-bit registers: what AVX-512 and AVX512-BF16 have in common. They differ in how a
//! register is loaded and what is multiplied.

use std::{arch::x86_64::*, marker::PhantomData};

use super::{
    dot::DotTiles,
    lanes::LaneTiles,
    panel::{Input, PANEL},
};

/// How 512-bit registers of inputs `X` and weights `W` are loaded and multiplied.
///
/// The methods are `inline(always)`, like those of the tiles that call them.
///
/// # Safety
/// Every method may be called only where the processor has its instruction set. What it may read is
/// said at each. Pointers are aligned for their elements, and need not be aligned to more.
pub(super) trait Arithmetic<X, W> {
    /// The type of weights that a tile of lanes multiplies: `W`, or the type it is widened to.
    type Operand;

    /// A register of factors.
    type Factors: Copy;

    /// Columns of a register of factors; those of sixteen sums.
    const COLUMNS: usize;

    /// [`LaneTiles::STAGE`].
    const STAGE: Option<unsafe fn(from: *const W, to: *mut Self::Operand, count: usize)>;

    /// Loads `count` inputs, 1 to [`COLUMNS`](Self::COLUMNS); the other lanes are zero.
    ///
    /// # Safety
    /// `count` elements can be read; no other is.
    unsafe fn inputs(from: *const X, count: usize) -> Self::Factors;

    /// Loads `count` weights, 1 to [`COLUMNS`](Self::COLUMNS); the other lanes are zero.
    ///
    /// # Safety
    /// `count` elements can be read; no other is.
    unsafe fn weights(from: *const W, count: usize) -> Self::Factors;

    /// A weight (a pair of them, if the input type pairs columns) for every sum.
    ///
    /// # Safety
    /// [`Input::PAIR`] operands can be read.
    unsafe fn broadcast(from: *const Self::Operand) -> Self::Factors;

    /// A weight that has no partner, for every sum; zero in place of the partner.
    ///
    /// # Safety
    /// One operand can be read; nothing else is.
    unsafe fn broadcast_odd(from: *const Self::Operand) -> Self::Factors;

    /// Adds the products of two registers.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn add_products(sums: __m512, a: Self::Factors, b: Self::Factors) -> __m512;
}

/// The tiles of an arithmetic.
pub(super) struct Zmm<A>(PhantomData<A>);

impl<X, W, A: Arithmetic<X, W>> DotTiles<X, W> for Zmm<A> {
    type Sums = __m512;

    const LANES: usize = A::COLUMNS;
    // 5 x 4 accumulators, 4 weights and 1 input are 25 of the 32 registers.
    const INPUTS: usize = 5;
    const WEIGHTS: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: the processor has AVX-512, by the trait's contract.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn step<const I: usize, const R: usize>(
        sums: &mut [[__m512; R]; I],
        inputs: [*const X; I],
        weights: [*const W; R],
    ) {
        // SAFETY: a whole step of columns can be read at each pointer, by the trait's contract.
        unsafe { add_columns::<A, X, W, I, R>(sums, inputs, weights, A::COLUMNS) }
    }

    #[inline(always)]
    unsafe fn tail<const I: usize, const R: usize>(
        sums: &mut [[__m512; R]; I],
        inputs: [*const X; I],
        weights: [*const W; R],
        cols: usize,
    ) {
        // SAFETY: `cols` columns can be read at each pointer, by the trait's contract.
        unsafe { add_columns::<A, X, W, I, R>(sums, inputs, weights, cols) }
    }

    #[inline(always)]
    unsafe fn total(sums: __m512) -> f32 {
        // SAFETY: the processor has AVX-512, by the trait's contract.
        unsafe { _mm512_reduce_add_ps(sums) }
    }
}

/// Adds `cols` columns of each input row and weight row.
///
/// # Safety
/// The processor has the instruction set of `A`; `cols` elements can be read at each pointer.
#[inline(always)]
unsafe fn add_columns<A: Arithmetic<X, W>, X, W, const I: usize, const R: usize>(
    sums: &mut [[__m512; R]; I],
    inputs: [*const X; I],
    weights: [*const W; R],
    cols: usize,
) {
    // SAFETY: every load is of `cols` elements at one of the pointers.
    unsafe {
        let mut w = [A::weights(weights[0], cols); R];
        for r in 1..R {
            w[r] = A::weights(weights[r], cols);
        }
        for i in 0..I {
            let x = A::inputs(inputs[i], cols);
            for r in 0..R {
                sums[i][r] = A::add_products(sums[i][r], x, w[r]);
            }
        }
    }
}

impl<X: Input, W, A: Arithmetic<X, W>> LaneTiles<X, W> for Zmm<A> {
    type Operand = A::Operand;
    type Sums = __m512;

    // 8 x 2 accumulators, 2 panels and 1 (pair of) weights are 19 of the 32 registers; more rows, a
    // page apart, would fall into one set of the first-level cache.
    const ROWS: usize = 8;
    const PANELS: usize = 2;
    const STAGE: Option<unsafe fn(*const W, *mut A::Operand, usize)> = A::STAGE;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        const { assert!(A::COLUMNS == X::PAIR * PANEL) };
        // SAFETY: the processor has AVX-512, by the trait's contract.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: sixteen values can be read there, by the trait's contract.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(sums: __m512, to: *mut f32) {
        // SAFETY: sixteen values can be written there, by the trait's contract.
        unsafe { _mm512_storeu_ps(to, sums) }
    }

    #[inline(always)]
    unsafe fn step<const R: usize, const P: usize>(
        sums: &mut [[__m512; P]; R],
        panels: [*const X; P],
        weights: *const A::Operand,
        row_stride: usize,
    ) {
        // SAFETY: a column (a pair of them) of each panel, `COLUMNS` elements, and of each weight
        // row can be read, by the trait's contract.
        unsafe {
            let mut x = [A::inputs(panels[0], A::COLUMNS); P];
            for p in 1..P {
                x[p] = A::inputs(panels[p], A::COLUMNS);
            }
            for r in 0..R {
                let w = A::broadcast(weights.add(r * row_stride));
                for p in 0..P {
                    sums[r][p] = A::add_products(sums[r][p], w, x[p]);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn odd<const R: usize, const P: usize>(
        sums: &mut [[__m512; P]; R],
        panels: [*const X; P],
        weights: *const A::Operand,
        row_stride: usize,
    ) {
        // SAFETY: a pair of columns of each panel, `COLUMNS` elements, and one column of each
        // weight row can be read, by the trait's contract.
        unsafe {
            let mut x = [A::inputs(panels[0], A::COLUMNS); P];
            for p in 1..P {
                x[p] = A::inputs(panels[p], A::COLUMNS);
            }
            for r in 0..R {
                let w = A::broadcast_odd(weights.add(r * row_stride));
                for p in 0..P {
                    sums[r][p] = A::add_products(sums[r][p], w, x[p]);
                }
            }
        }
    }
}
