//! Plain Rust, in a shape the compiler turns into vectors of whatever the target has.

use half::{bf16, f16};

use super::{
    PANEL,
    dot::{self, DotCall, DotTiles, for_each_line},
    lanes::{self, LaneTiles, LanesCall, Tile},
};

/// Partial sums of one dot product.
const LANES: usize = 8;

/// Runs on every processor; `unsafe` to fit the list beside kernels that do not.
///
/// # Safety
/// None is needed.
pub(super) unsafe fn dot<W: Widen>(call: &DotCall<'_, f32, W>, out: &mut [f32]) {
    // SAFETY: plain Rust runs everywhere.
    unsafe { dot::walk::<Portable, f32, W>(call, out) }
}

/// As [`dot`].
///
/// # Safety
/// None is needed.
pub(super) unsafe fn lanes<W: Widen>(call: &LanesCall<'_, f32, W>, out: &mut [f32]) {
    // SAFETY: plain Rust runs everywhere.
    unsafe { lanes::walk::<Portable, f32, W>(call, out) }
}

/// A stored type that becomes f32 without a branch, so that many do at once.
pub(super) trait Widen: Copy {
    fn widen(self) -> f32;
}

struct Portable;

impl<W: Widen> DotTiles<f32, W> for Portable {
    const INPUTS: usize = 2;
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
        // SAFETY: the caller gives `cols` elements behind each pointer.
        let inputs = inputs.map(|row| unsafe { std::slice::from_raw_parts(row, cols) });
        // SAFETY: as above.
        let weights = weights.map(|row| unsafe { std::slice::from_raw_parts(row, cols) });
        let mut sums = [[[0.0_f32; LANES]; R]; I];
        let step = |sums: &mut [[[f32; LANES]; R]; I], k: usize| {
            for (r, weights) in weights.iter().enumerate() {
                let mut w = [0.0; LANES];
                for (w, value) in w.iter_mut().zip(&weights[k..k + LANES]) {
                    *w = value.widen();
                }
                for (i, inputs) in inputs.iter().enumerate() {
                    let x = &inputs[k..k + LANES];
                    for lane in 0..LANES {
                        sums[i][r][lane] += x[lane] * w[lane];
                    }
                }
            }
        };
        for_each_line(
            &mut sums,
            cols,
            ahead,
            |sums, line| {
                for k in (0..64 / size_of::<W>()).step_by(LANES) {
                    step(sums, line + k);
                }
            },
            |sums, mut k| {
                while k + LANES <= cols {
                    step(sums, k);
                    k += LANES;
                }
                for (i, inputs) in inputs.iter().enumerate() {
                    for (r, weights) in weights.iter().enumerate() {
                        for column in k..cols {
                            sums[i][r][column - k] += inputs[column] * weights[column].widen();
                        }
                    }
                }
            },
        );
        for (i, sums) in sums.iter().enumerate() {
            for (r, s) in sums.iter().enumerate() {
                let total = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
                // SAFETY: the caller gives room for every output.
                unsafe { *out.add(i * out_stride + r) = total };
            }
        }
    }
}

impl<W: Widen> LaneTiles<f32, W> for Portable {
    type Operand = f32;

    const ROWS: usize = 4;
    const PANELS: usize = 1;
    const STAGE: Option<unsafe fn(*const W, *mut f32, usize)> = Some(stage::<W>);

    #[inline(always)]
    unsafe fn tile<const R: usize, const P: usize>(tile: &Tile<f32, W, f32>) {
        // SAFETY: the caller gives `R` rows of sums.
        let sums = unsafe { std::slice::from_raw_parts_mut(tile.sums[0], R * PANEL) };
        let mut acc = [[0.0_f32; PANEL]; R];
        if !tile.begin {
            for (acc, sums) in acc.iter_mut().zip(sums.chunks_exact(PANEL)) {
                acc.copy_from_slice(sums);
            }
        }
        for k in 0..tile.cols {
            // SAFETY: the caller gives `cols` columns of the panel and of every row.
            let (x, w): (&[f32; PANEL], [f32; R]) = unsafe {
                let weight = |r: usize| *tile.weights.add(r * tile.row_stride + k);
                let x = tile.panels[0].add(k * tile.step_stride);
                (&*x.cast(), std::array::from_fn(weight))
            };
            for (acc, w) in acc.iter_mut().zip(w) {
                for (acc, x) in acc.iter_mut().zip(x) {
                    *acc += w * x;
                }
            }
        }
        for (acc, sums) in acc.iter().zip(sums.chunks_exact_mut(PANEL)) {
            sums.copy_from_slice(acc);
        }
    }
}

/// Widens `count` values.
///
/// # Safety
/// Both pointers hold `count` elements.
unsafe fn stage<W: Widen>(from: *const W, to: *mut f32, count: usize) {
    for k in 0..count {
        // SAFETY: as the caller owes.
        unsafe { *to.add(k) = (*from.add(k)).widen() };
    }
}

impl Widen for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Widen for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Widen for f16 {
    /// Puts exponent and mantissa where f32 has them and rescales, which normalises small numbers.
    #[inline(always)]
    fn widen(self) -> f32 {
        /// The difference of the exponents' biases: 2 to the 112.
        const SCALE: f32 = f32::from_bits(0x7780_0000);
        let bits = u32::from(self.to_bits());
        let magnitude = f32::from_bits((bits & 0x7fff) << 13) * SCALE;
        // What has the largest exponent of f16, infinity and NaN, has that of f32.
        let special = if magnitude >= 65_536.0 { 0x7f80_0000 } else { 0 };
        f32::from_bits(magnitude.to_bits() | special | ((bits & 0x8000) << 16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_16_bit_number_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (half, brain) = (f16::from_bits(bits), bf16::from_bits(bits));
            if half.is_nan() {
                assert!(half.widen().is_nan());
            } else {
                assert_eq!(half.widen().to_bits(), half.to_f32().to_bits(), "f16 {bits:#x}");
            }
            if brain.is_nan() {
                assert!(brain.widen().is_nan());
            } else {
                assert_eq!(brain.widen().to_bits(), brain.to_f32().to_bits(), "bf16 {bits:#x}");
            }
        }
    }
}
