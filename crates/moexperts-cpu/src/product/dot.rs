//! Few input rows: dot products with the columns in the lanes, weights read where they lie.
//!
//! A group of weight rows streams past all input rows once. Meanwhile a group that follows is
//! prefetched: hardware prefetchers stop at the end of a page, and a row is often just one.

use super::{panel::Input, prefetch::prefetch};

/// Sums of a tile that leaves registers for several steps: with the 16 registers of AVX2, 3 x 3
/// sums and 3 weights leave 4.
const LOW: usize = 9;

/// A checked call: every index in `rows` is a row of `inputs` [_, cols], and every output `r` a row
/// of `weights`, `weights[r * row_stride..][..cols]`. The functions that walk it trust that, and
/// that `out` holds `rows.len() * outputs` values.
pub(super) struct DotCall<'a, X, W> {
    pub(super) inputs: &'a [X],
    pub(super) rows: &'a [u32],
    pub(super) weights: &'a [W],
    pub(super) row_stride: usize,
    pub(super) outputs: usize,
    pub(super) cols: usize,
    /// The row that is read after the last of these, and its stride; null if none is known.
    pub(super) next: *const W,
    pub(super) next_stride: usize,
    /// Prefetch distance, in groups of weight rows; 0 turns prefetching off.
    pub(super) groups_ahead: usize,
}

impl<X, W> DotCall<'_, X, W> {
    /// The row that is read `distance` rows after `output`: of these weights, or of the next.
    #[inline(always)]
    fn ahead(&self, output: usize, distance: usize) -> *const W {
        let row = output + distance;
        match row.checked_sub(self.outputs) {
            None => self.weights.as_ptr().wrapping_add(row * self.row_stride),
            Some(row) if !self.next.is_null() => self.next.wrapping_add(row * self.next_stride),
            // A line that has just been read: a prefetch of it costs nothing.
            Some(_) => self.weights.as_ptr().wrapping_add(output * self.row_stride),
        }
    }
}

/// Registers of one instruction set: a tile is a few input rows times a few weight rows, each pair
/// with a separate accumulator.
///
/// The methods are `inline(always)`, and no closures are near them, so that they are compiled with
/// the features of the function that calls [`walk`]; they must not be called from anywhere else.
///
/// # Safety
/// Every method may be called only where the processor has the instruction set. What it may read is
/// said at each. Pointers are aligned for their elements, and need not be aligned to more.
pub(super) trait DotTiles<X, W> {
    /// Partial sums of one output.
    type Sums: Copy;

    /// Columns of a step; a divisor of the columns of a cache line of weights.
    const LANES: usize;

    /// Input rows of the highest tile; at most 5.
    const INPUTS: usize;

    /// Weight rows of a tile of three or more input rows, 3 or 4; lower tiles have 4.
    const WEIGHTS: usize;

    /// No sums yet.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn zero() -> Self::Sums;

    /// Adds `LANES` columns to the sums.
    ///
    /// # Safety
    /// `LANES` elements can be read at each pointer.
    unsafe fn step<const I: usize, const R: usize>(
        sums: &mut [[Self::Sums; R]; I],
        inputs: [*const X; I],
        weights: [*const W; R],
    );

    /// Adds the last columns, `0 < cols < LANES`.
    ///
    /// # Safety
    /// `cols` elements can be read at each pointer; nothing after them is.
    unsafe fn tail<const I: usize, const R: usize>(
        sums: &mut [[Self::Sums; R]; I],
        inputs: [*const X; I],
        weights: [*const W; R],
        cols: usize,
    );

    /// The sum of the partial sums.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn total(sums: Self::Sums) -> f32;
}

/// Writes `out[i * outputs + r]` for every input row `i` and weight row `r` of the call.
///
/// # Safety
/// The processor has the instruction set of `T`; the call is one that [`DotCall`] describes, and
/// `out` holds its results.
#[inline(always)]
pub(super) unsafe fn walk<T: DotTiles<X, W>, X: Input, W>(
    call: &DotCall<'_, X, W>,
    out: &mut [f32],
) {
    let tiles = call.rows.len().div_ceil(T::INPUTS);
    let highest = call.rows.len().div_ceil(tiles.max(1));
    let mut output = 0;
    while output < call.outputs {
        let left = call.outputs - output;
        // SAFETY: `left` counts the weight rows from `output` on, and no more than those are taken.
        unsafe {
            if highest >= 3 && T::WEIGHTS == 3 && left >= 3 {
                column_of_tiles::<T, X, W, 3>(call, tiles, output, out);
                output += 3;
            } else if left >= 4 {
                column_of_tiles::<T, X, W, 4>(call, tiles, output, out);
                output += 4;
            } else {
                column_of_tiles::<T, X, W, 1>(call, tiles, output, out);
                output += 1;
            }
        }
    }
}

/// All input rows against `R` weight rows from `output` on.
///
/// # Safety
/// As for [`walk`]; `output + R <= call.outputs`.
#[inline(always)]
unsafe fn column_of_tiles<T: DotTiles<X, W>, X: Input, W, const R: usize>(
    call: &DotCall<'_, X, W>,
    tiles: usize,
    output: usize,
    out: &mut [f32],
) {
    let weights: [*const W; R] = std::array::from_fn(|r| {
        // SAFETY: `output + r` is one of the call's outputs, whose rows lie inside `weights`.
        unsafe { call.weights.as_ptr().add((output + r) * call.row_stride) }
    });
    let ahead: [*const W; R] =
        std::array::from_fn(|r| call.ahead(output + r, call.groups_ahead * R));
    // Tiles of nearly equal height: 7 rows are 4 + 3, not 5 + 2.
    let edge = |tile: usize| call.rows.len() * tile / tiles;
    for tile in 0..tiles {
        let rows = &call.rows[edge(tile)..edge(tile + 1)];
        let out = &mut out[edge(tile) * call.outputs + output..];
        // Every tile prefetches its share of the rows ahead, so that memory is never idle.
        let ahead: [*const W; R] =
            std::array::from_fn(|r| if r % tiles == tile { ahead[r] } else { weights[r] });
        // SAFETY: rows and outputs exist, by the contract of `walk`; `out` has a row for each of
        // the input rows from the tile's first on.
        unsafe {
            match *rows {
                [a] => one_tile::<T, X, W, 1, R>(call, [a], weights, ahead, out),
                [a, b] => one_tile::<T, X, W, 2, R>(call, [a, b], weights, ahead, out),
                [a, b, c] => one_tile::<T, X, W, 3, R>(call, [a, b, c], weights, ahead, out),
                [a, b, c, d] if T::INPUTS >= 4 => {
                    one_tile::<T, X, W, 4, R>(call, [a, b, c, d], weights, ahead, out);
                }
                [a, b, c, d, e] if T::INPUTS >= 5 => {
                    one_tile::<T, X, W, 5, R>(call, [a, b, c, d, e], weights, ahead, out);
                }
                _ => unreachable!("a tile has at most `INPUTS` input rows"),
            }
        }
    }
}

/// One tile over all columns.
///
/// # Safety
/// The processor has the instruction set of `T`. `rows` are rows of the inputs, `call.cols`
/// elements can be read at each of `weights`, and `out` holds `(I - 1) * call.outputs + R` values.
/// `ahead` may be any addresses.
#[inline(always)]
unsafe fn one_tile<T: DotTiles<X, W>, X: Input, W, const I: usize, const R: usize>(
    call: &DotCall<'_, X, W>,
    rows: [u32; I],
    weights: [*const W; R],
    ahead: [*const W; R],
    out: &mut [f32],
) {
    let line = 64 / size_of::<W>();
    // SAFETY: `k` and the columns that are read after it are below `call.cols`, which all rows
    // have, by this function's contract; so is the place in `out`.
    unsafe {
        let mut inputs = [call.inputs.as_ptr(); I];
        for i in 0..I {
            inputs[i] = inputs[i].add(rows[i] as usize * call.cols);
        }
        let mut sums = [[T::zero(); R]; I];
        let mut k = 0;
        // A low tile takes a cache line of weights a turn. A high one a step: unrolled, its sums
        // would leave their registers.
        let turn = if I * R <= LOW { line } else { T::LANES };
        while k + turn <= call.cols {
            if turn == line || k.is_multiple_of(line) {
                for r in 0..R {
                    prefetch(ahead[r].wrapping_add(k));
                }
            }
            for _ in 0..turn / T::LANES {
                T::step(&mut sums, at(inputs, k), at(weights, k));
                k += T::LANES;
            }
        }
        while k + T::LANES <= call.cols {
            T::step(&mut sums, at(inputs, k), at(weights, k));
            k += T::LANES;
        }
        if k < call.cols {
            T::tail(&mut sums, at(inputs, k), at(weights, k), call.cols - k);
        }
        for i in 0..I {
            for r in 0..R {
                *out.get_unchecked_mut(i * call.outputs + r) = T::total(sums[i][r]);
            }
        }
    }
}

/// Column `k` of every row.
///
/// # Safety
/// The rows have `k` columns at least.
#[inline(always)]
unsafe fn at<T, const N: usize>(mut rows: [*const T; N], k: usize) -> [*const T; N] {
    for n in 0..N {
        // SAFETY: the row has `k` columns, so this is inside it or its end.
        rows[n] = unsafe { rows[n].add(k) };
    }
    rows
}
