//! The walk over a block in register tiles, the same for every instruction set.

use super::TypedCall;

/// Register tiles of one instruction set: a few input rows times a few weight rows, each pair with
/// an accumulator of its own.
///
/// The methods are `inline(always)` so that they are compiled with the features of the function
/// that calls [`walk`]; they must not be called from anywhere else.
pub(super) trait Tiles<X, W> {
    /// Input rows of the largest tile; at most 5.
    const INPUTS: usize;

    /// Writes `out[i * out_stride + r] = Σ_k inputs[i][k] · weights[r][k]`.
    ///
    /// # Safety
    /// The processor has the instruction set; all pointers hold `cols` elements; `out` holds
    /// `(I - 1) * out_stride + R` values.
    unsafe fn tile<const I: usize, const R: usize>(
        inputs: [*const X; I],
        weights: [*const W; R],
        cols: usize,
        out: *mut f32,
        out_stride: usize,
    );
}

/// Computes a block tile by tile: the inputs of a tile stay in the first-level cache while all
/// weight rows pass.
///
/// # Safety
/// The processor has the instruction set of `T`.
#[inline(always)]
pub(super) unsafe fn walk<T: Tiles<X, W>, X, W>(call: &TypedCall<'_, X, W>, out: &mut [f32]) {
    let tiles = call.rows.len().div_ceil(T::INPUTS);
    // Tiles of nearly equal height: 7 rows are 4 + 3, not 5 + 2.
    let edge = |tile: usize| call.rows.len() * tile / tiles;
    for tile in 0..tiles {
        let rows = &call.rows[edge(tile)..edge(tile + 1)];
        let out = &mut out[edge(tile) * call.outputs..edge(tile + 1) * call.outputs];
        // SAFETY: `Kernel::run` checked rows and outputs; `out` has a row for each input row.
        unsafe {
            match *rows {
                [a] => row_of_tiles::<T, X, W, 1>(call, [a], out),
                [a, b] => row_of_tiles::<T, X, W, 2>(call, [a, b], out),
                [a, b, c] => row_of_tiles::<T, X, W, 3>(call, [a, b, c], out),
                [a, b, c, d] if T::INPUTS >= 4 => {
                    row_of_tiles::<T, X, W, 4>(call, [a, b, c, d], out);
                }
                [a, b, c, d, e] if T::INPUTS >= 5 => {
                    row_of_tiles::<T, X, W, 5>(call, [a, b, c, d, e], out);
                }
                _ => unreachable!("a tile has at most `INPUTS` input rows"),
            }
        }
    }
}

/// # Safety
/// As for [`walk`]; every row exists, and `out` holds `I * call.outputs` values.
#[inline(always)]
unsafe fn row_of_tiles<T: Tiles<X, W>, X, W, const I: usize>(
    call: &TypedCall<'_, X, W>,
    rows: [u32; I],
    out: &mut [f32],
) {
    let (cols, stride) = (call.cols, call.row_stride);
    // SAFETY: every row exists.
    let inputs = rows.map(|row| unsafe { call.inputs.as_ptr().add(row as usize * cols) });
    let weights = call.weights.as_ptr();
    let mut output = 0;
    while output + 4 <= call.outputs {
        // SAFETY: these weight rows exist.
        unsafe {
            let row = |r: usize| weights.add((output + r) * stride);
            let weights = [row(0), row(1), row(2), row(3)];
            let out = out.as_mut_ptr().add(output);
            T::tile::<I, 4>(inputs, weights, cols, out, call.outputs);
        }
        output += 4;
    }
    while output < call.outputs {
        // SAFETY: this weight row exists.
        unsafe {
            let weights = [weights.add(output * stride)];
            let out = out.as_mut_ptr().add(output);
            T::tile::<I, 1>(inputs, weights, cols, out, call.outputs);
        }
        output += 1;
    }
}
