//! Plain Rust, in a shape the compiler turns into vectors of whatever the target has.

use half::{bf16, f16};

use super::{
    dot::{self, DotCall, DotTiles},
    lanes::{self, LaneTiles, LanesCall},
    panel::PANEL,
};

/// Partial sums of one dot product: two registers of SSE or NEON, so that an addition need not wait
/// for the one before it.
const LANES: usize = 8;

/// # Safety
/// The rows of the call exist, and `out` holds their results: [`DotCall`]. Any processor will do.
pub(super) unsafe fn dot<W: Widen>(call: &DotCall<'_, f32, W>, out: &mut [f32]) {
    // SAFETY: plain Rust runs everywhere; this function's contract is that of the walk.
    unsafe { dot::walk::<Portable, f32, W>(call, out) }
}

/// # Safety
/// The rows and panels of the call exist, and `out` holds their results: [`LanesCall`]. Any
/// processor will do.
pub(super) unsafe fn lanes<W: Widen>(call: &LanesCall<'_, f32, W>, out: &mut [f32]) {
    // SAFETY: plain Rust runs everywhere; this function's contract is that of the walk.
    unsafe { lanes::walk::<Portable, f32, W>(call, out) }
}

/// A stored type that becomes f32 without a branch, so that many do at once.
pub(super) trait Widen: Copy {
    /// Widens a row for the tiles of [`LaneTiles`], unless it is f32 already.
    const STAGE: Option<unsafe fn(from: *const Self, to: *mut f32, count: usize)> =
        Some(stage::<Self>);

    fn widen(self) -> f32;
}

struct Portable;

impl<W: Widen> DotTiles<f32, W> for Portable {
    type Sums = [f32; LANES];

    const LANES: usize = LANES;
    const INPUTS: usize = 2;
    const WEIGHTS: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> [f32; LANES] {
        [0.0; LANES]
    }

    #[inline(always)]
    unsafe fn step<const I: usize, const R: usize>(
        sums: &mut [[[f32; LANES]; R]; I],
        inputs: [*const f32; I],
        weights: [*const W; R],
    ) {
        for r in 0..R {
            // SAFETY: `LANES` weights can be read at each pointer, by the trait's contract.
            let stored: [W; LANES] = unsafe { weights[r].cast::<[W; LANES]>().read_unaligned() };
            let mut w = [0.0; LANES];
            for lane in 0..LANES {
                w[lane] = stored[lane].widen();
            }
            for i in 0..I {
                // SAFETY: `LANES` inputs can be read at each pointer, which is aligned for f32.
                let x = unsafe { &*inputs[i].cast::<[f32; LANES]>() };
                for lane in 0..LANES {
                    sums[i][r][lane] += x[lane] * w[lane];
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn tail<const I: usize, const R: usize>(
        sums: &mut [[[f32; LANES]; R]; I],
        inputs: [*const f32; I],
        weights: [*const W; R],
        cols: usize,
    ) {
        for i in 0..I {
            for r in 0..R {
                for k in 0..cols {
                    // SAFETY: `cols` elements can be read at each pointer, by the trait's contract.
                    let (x, w) = unsafe { (*inputs[i].add(k), *weights[r].add(k)) };
                    sums[i][r][k] += x * w.widen();
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn total(s: [f32; LANES]) -> f32 {
        ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
    }
}

impl<W: Widen> LaneTiles<f32, W> for Portable {
    type Operand = f32;
    type Sums = [f32; PANEL];

    const ROWS: usize = 4;
    const PANELS: usize = 1;
    const STAGE: Option<unsafe fn(*const W, *mut f32, usize)> = W::STAGE;

    #[inline(always)]
    unsafe fn zero() -> [f32; PANEL] {
        [0.0; PANEL]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; PANEL] {
        // SAFETY: `PANEL` values can be read there, and the pointer is aligned for f32.
        unsafe { *from.cast() }
    }

    #[inline(always)]
    unsafe fn store(sums: [f32; PANEL], to: *mut f32) {
        // SAFETY: `PANEL` values can be written there, and the pointer is aligned for f32.
        unsafe { *to.cast() = sums };
    }

    #[inline(always)]
    unsafe fn step<const R: usize, const P: usize>(
        sums: &mut [[[f32; PANEL]; P]; R],
        panels: [*const f32; P],
        weights: *const f32,
        row_stride: usize,
    ) {
        for r in 0..R {
            // SAFETY: each row has a weight there, by the trait's contract.
            let w = unsafe { *weights.add(r * row_stride) };
            for p in 0..P {
                // SAFETY: `PANEL` values can be read at each panel, which is aligned for f32.
                let x = unsafe { &*panels[p].cast::<[f32; PANEL]>() };
                for lane in 0..PANEL {
                    sums[r][p][lane] += w * x[lane];
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn odd<const R: usize, const P: usize>(
        _: &mut [[[f32; PANEL]; P]; R],
        _: [*const f32; P],
        _: *const f32,
        _: usize,
    ) {
        unreachable!("f32 columns have no partners");
    }
}

/// Widens `count` values.
///
/// # Safety
/// `count` elements can be read from `from` and written to `to`.
unsafe fn stage<W: Widen>(from: *const W, to: *mut f32, count: usize) {
    for k in 0..count {
        // SAFETY: `k < count`.
        unsafe { *to.add(k) = (*from.add(k)).widen() };
    }
}

impl Widen for f32 {
    const STAGE: Option<unsafe fn(*const f32, *mut f32, usize)> = None;

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
        // Infinity and NaN have the largest exponent of f16, and get that of f32.
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
