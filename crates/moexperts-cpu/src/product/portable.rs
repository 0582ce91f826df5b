//! Plain Rust, in a shape the compiler turns into vectors of whatever the target has.

use moexperts_core::Element;

use super::{
    TypedCall,
    tiles::{Tiles, walk},
};

/// Partial sums of one dot product.
const LANES: usize = 8;

/// Runs on every processor; `unsafe` to fit the list beside kernels that do not.
///
/// # Safety
/// None is needed.
pub(super) unsafe fn block<W: Element>(call: &TypedCall<'_, f32, W>, out: &mut [f32]) {
    // SAFETY: plain Rust runs everywhere.
    unsafe { walk::<Portable, f32, W>(call, out) }
}

struct Portable;

impl<W: Element> Tiles<f32, W> for Portable {
    const INPUTS: usize = 2;

    #[inline(always)]
    unsafe fn tile<const I: usize, const R: usize>(
        inputs: [*const f32; I],
        weights: [*const W; R],
        cols: usize,
        out: *mut f32,
        out_stride: usize,
    ) {
        // SAFETY: the caller gives `cols` elements behind each pointer.
        let inputs = inputs.map(|row| unsafe { std::slice::from_raw_parts(row, cols) });
        // SAFETY: as above.
        let weights = weights.map(|row| unsafe { std::slice::from_raw_parts(row, cols) });
        let mut sums = [[[0.0_f32; LANES]; R]; I];
        let whole = cols - cols % LANES;
        for k in (0..whole).step_by(LANES) {
            for (r, weights) in weights.iter().enumerate() {
                let mut w = [0.0; LANES];
                for (w, value) in w.iter_mut().zip(&weights[k..k + LANES]) {
                    *w = value.to_f32();
                }
                for (i, inputs) in inputs.iter().enumerate() {
                    let x = &inputs[k..k + LANES];
                    for lane in 0..LANES {
                        sums[i][r][lane] += x[lane] * w[lane];
                    }
                }
            }
        }
        for k in whole..cols {
            for (i, inputs) in inputs.iter().enumerate() {
                for (r, weights) in weights.iter().enumerate() {
                    sums[i][r][k - whole] += inputs[k] * weights[k].to_f32();
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (r, s) in sums.iter().enumerate() {
                let total = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
                // SAFETY: the caller gives room for every output.
                unsafe { *out.add(i * out_stride + r) = total };
            }
        }
    }
}
