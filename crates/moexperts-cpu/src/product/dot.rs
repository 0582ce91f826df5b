//! Few input rows: dot products with the columns in the lanes, weights read where they lie.
//!
//! A group of weight rows streams past all input rows once; while it does, the next group is asked
//! for, because hardware prefetchers stop at the end of a page and a row is often just one.

use super::{Input, prefetch};

/// A checked call: every index in `rows` is a row of `inputs`, every output a row of `weights`.
pub(super) struct DotCall<'a, X, W> {
    pub(super) inputs: &'a [X],
    pub(super) rows: &'a [u32],
    pub(super) weights: &'a [W],
    pub(super) row_stride: usize,
    pub(super) outputs: usize,
    pub(super) cols: usize,
}

/// Register tiles of one instruction set: a few input rows times a few weight rows, each pair with
/// an accumulator of its own.
///
/// The methods are `inline(always)` so that they are compiled with the features of the function
/// that calls [`walk`]; they must not be called from anywhere else.
pub(super) trait DotTiles<X, W> {
    /// Input rows of the highest tile; at most 5.
    const INPUTS: usize;

    /// Weight rows of the highest tile, 3 or 4; lower ones have 4.
    const WEIGHTS: usize;

    /// Writes `out[i * out_stride + r] = Σ_k inputs[i][k] · weights[r][k]` and prefetches the
    /// columns of the rows at `ahead`.
    ///
    /// # Safety
    /// The processor has the instruction set; the pointers of inputs and weights hold `cols`
    /// elements; `out` holds `(I - 1) * out_stride + R` values. `ahead` may point anywhere.
    unsafe fn tile<const I: usize, const R: usize>(
        inputs: [*const X; I],
        weights: [*const W; R],
        ahead: [*const W; R],
        cols: usize,
        out: *mut f32,
        out_stride: usize,
    );
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
            if highest == T::INPUTS && T::WEIGHTS == 3 && left >= 3 {
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
    // Tiles of nearly equal height: 7 rows are 4 + 3, not 5 + 2.
    let edge = |tile: usize| call.rows.len() * tile / tiles;
    for tile in 0..tiles {
        let rows = &call.rows[edge(tile)..edge(tile + 1)];
        let out = &mut out[edge(tile) * call.outputs + output..];
        // The last tile asks for the next rows: by then these have all been read.
        let distance = if tile + 1 == tiles { R * call.row_stride } else { 0 };
        let ahead = weights.map(|row| row.wrapping_add(distance));
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
/// As for [`walk`]; the rows exist, and `out` holds `(I - 1) * call.outputs + R` values.
#[inline(always)]
unsafe fn one_tile<T: DotTiles<X, W>, X: Input, W, const I: usize, const R: usize>(
    call: &DotCall<'_, X, W>,
    rows: [u32; I],
    weights: [*const W; R],
    ahead: [*const W; R],
    out: &mut [f32],
) {
    // SAFETY: the caller owes that the rows exist.
    let inputs = rows.map(|row| unsafe { call.inputs.as_ptr().add(row as usize * call.cols) });
    // SAFETY: as the caller owes.
    unsafe { T::tile(inputs, weights, ahead, call.cols, out.as_mut_ptr(), call.outputs) }
}

/// Walks the columns a cache line of weights at a time: `line(k)` for whole lines, of which those
/// ahead are prefetched, then `rest(k)` for the columns that are left.
#[inline(always)]
pub(super) fn for_each_line<S, W, const R: usize>(
    sums: &mut S,
    cols: usize,
    ahead: [*const W; R],
    line: impl Fn(&mut S, usize),
    rest: impl Fn(&mut S, usize),
) {
    let step = 64 / size_of::<W>();
    let whole = cols - cols % step;
    let mut k = 0;
    while k < whole {
        for row in ahead {
            prefetch(row.wrapping_add(k));
        }
        line(sums, k);
        k += step;
    }
    if whole < cols {
        rest(sums, whole);
    }
}
