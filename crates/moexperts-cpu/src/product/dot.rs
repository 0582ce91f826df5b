//! Few input rows: dot products with the columns in the lanes, weights read where they lie.
//!
//! A group of weight rows streams past all input rows once; while it does, the next group is asked
//! for, because hardware prefetchers stop at the end of a page and a row is often just one.

use super::{Input, prefetch};

/// Sums of a tile that leaves registers for several steps.
const LOW: usize = 9;

/// A checked call: every index in `rows` is a row of `inputs`, every output a row of `weights`.
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
    /// How many groups of weight rows ahead of their use they are asked for; 0 asks for none.
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
            // Something that has just been read.
            Some(_) => self.weights.as_ptr().wrapping_add(output * self.row_stride),
        }
    }
}

/// Registers of one instruction set: a tile is a few input rows times a few weight rows, each pair
/// with an accumulator of its own.
///
/// The methods are `inline(always)`, and no closures are near them, so that they are compiled with
/// the features of the function that calls [`walk`]; they must not be called from anywhere else.
///
/// # Safety
/// Every method owes that the processor has the instruction set and that the elements it reads lie
/// behind the pointers.
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
    unsafe fn zero() -> Self::Sums;

    /// Adds `LANES` columns to the sums.
    unsafe fn step<const I: usize, const R: usize>(
        sums: &mut [[Self::Sums; R]; I],
        inputs: [*const X; I],
        weights: [*const W; R],
    );

    /// Adds the last columns, fewer than `LANES`.
    unsafe fn tail<const I: usize, const R: usize>(
        sums: &mut [[Self::Sums; R]; I],
        inputs: [*const X; I],
        weights: [*const W; R],
        cols: usize,
    );

    /// The sum of the partial sums.
    unsafe fn total(sums: Self::Sums) -> f32;
}

/// Writes `out[i * outputs + r]` for every input row `i` and weight row `r` of the call.
///
/// # Safety
/// The processor has the instruction set of `T`.
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
        // SAFETY: as the caller owes; so many weight rows exist.
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
/// As for [`walk`]; these weight rows exist.
#[inline(always)]
unsafe fn column_of_tiles<T: DotTiles<X, W>, X: Input, W, const R: usize>(
    call: &DotCall<'_, X, W>,
    tiles: usize,
    output: usize,
    out: &mut [f32],
) {
    let weights: [*const W; R] = std::array::from_fn(|r| {
        // SAFETY: the caller owes that the row exists.
        unsafe { call.weights.as_ptr().add((output + r) * call.row_stride) }
    });
    let ahead: [*const W; R] =
        std::array::from_fn(|r| call.ahead(output + r, call.groups_ahead * R));
    // Tiles of nearly equal height: 7 rows are 4 + 3, not 5 + 2.
    let edge = |tile: usize| call.rows.len() * tile / tiles;
    for tile in 0..tiles {
        let rows = &call.rows[edge(tile)..edge(tile + 1)];
        let out = &mut out[edge(tile) * call.outputs + output..];
        // Every tile asks for its share of the rows ahead, so that memory never waits.
        let ahead: [*const W; R] =
            std::array::from_fn(|r| if r % tiles == tile { ahead[r] } else { weights[r] });
        // SAFETY: `Kernel::dot` checked rows and outputs; `out` has a row for each input row.
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

/// # Safety
/// As for [`walk`]; the rows exist, and `out` holds `(I - 1) * call.outputs + R` values. `ahead`
/// may point anywhere.
#[inline(always)]
unsafe fn one_tile<T: DotTiles<X, W>, X: Input, W, const I: usize, const R: usize>(
    call: &DotCall<'_, X, W>,
    rows: [u32; I],
    weights: [*const W; R],
    ahead: [*const W; R],
    out: &mut [f32],
) {
    let line = 64 / size_of::<W>();
    // SAFETY: as the caller owes; `k` and the columns after it are columns of every row.
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
/// The rows have that column.
#[inline(always)]
unsafe fn at<T, const N: usize>(mut rows: [*const T; N], k: usize) -> [*const T; N] {
    for n in 0..N {
        // SAFETY: as the caller owes.
        rows[n] = unsafe { rows[n].add(k) };
    }
    rows
}
