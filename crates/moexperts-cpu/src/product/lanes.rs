//! Many input rows: the rows side by side in the lanes, weights broadcast from where they lie.
//!
//! Sixteen input rows are packed into a panel, column after column. A tile broadcasts one column
//! of a few weight rows and multiplies it with that column of a panel, so nothing of the weights is
//! reordered and an output is summed in the order of the columns. Weights of a type the instruction
//! does not take are widened a few rows at a time into a buffer in the first-level cache.

use std::{mem::MaybeUninit, ptr::null};

use super::{Input, PANEL, prefetch};

/// Columns that are multiplied before the next ones: at most as many as fit in [`Staged`].
const MAX_DEPTH: usize = 2048;

/// Bytes of the panels that all weight rows of a block pass over: half a small second-level cache.
const PANEL_BYTES: usize = 256 << 10;

/// Panels that pass over a block of weight rows together.
const PANELS_AT_ONCE: usize = 8;

/// Weight rows of the highest tile of any instruction set: more, a page apart, would not fit in
/// one set of the first-level cache.
const MAX_ROWS: usize = 8;

/// Columns between the rows of [`Staged`], so that they do not fall into one set of the cache.
const GAP: usize = 16;

/// A checked call: every panel holds `cols` columns, every output is a row of `weights`.
pub(super) struct LanesCall<'a, X, W> {
    pub(super) panels: &'a [X],
    pub(super) panel_count: usize,
    /// From a panel to the next.
    pub(super) panel_stride: usize,
    /// From a column of a panel (a pair of columns, if the input dtype pairs them) to the next.
    pub(super) step_stride: usize,
    pub(super) weights: &'a [W],
    pub(super) row_stride: usize,
    pub(super) outputs: usize,
    pub(super) cols: usize,
}

/// One tile: some weight rows times one or two panels, over some columns.
pub(super) struct Tile<X, W, S> {
    pub(super) panels: [*const X; 2],
    pub(super) step_stride: usize,
    pub(super) weights: *const S,
    pub(super) row_stride: usize,
    pub(super) cols: usize,
    /// Sixteen sums for each weight row, for each panel.
    pub(super) sums: [*mut f32; 2],
    /// Whether the sums begin here, or go on from what is there.
    pub(super) begin: bool,
    /// Weight rows to prefetch meanwhile, `ahead_stride` apart; null for none.
    ahead: *const W,
    ahead_stride: usize,
}

impl<X, W, S> Tile<X, W, S> {
    /// Prefetches columns `k..k + COLS` of the `R` rows ahead.
    #[inline(always)]
    pub(super) fn prefetch<const R: usize, const COLS: usize>(&self, k: usize) {
        if !self.ahead.is_null() {
            for r in 0..R {
                let row = self.ahead.wrapping_add(r * self.ahead_stride + k);
                for line in (0..COLS).step_by(64 / size_of::<W>()) {
                    prefetch(row.wrapping_add(line));
                }
            }
        }
    }
}

/// Register tiles of one instruction set, with the input rows in the lanes.
///
/// The methods are `inline(always)` so that they are compiled with the features of the function
/// that calls [`walk`]; they must not be called from anywhere else.
pub(super) trait LaneTiles<X, W> {
    /// What the tile multiplies: `W`, or what it is widened to.
    type Operand;

    /// Weight rows of the highest tile; at most `MAX_ROWS`.
    const ROWS: usize;

    /// Panels of the widest tile, 1 or 2.
    const PANELS: usize;

    /// Widens `count` weights, or gives `None` if the tile reads them where they lie.
    const STAGE: Option<unsafe fn(from: *const W, to: *mut Self::Operand, count: usize)>;

    /// Adds `Σ_k weights[r][k] · panel[p][k]` to the sums of `R` rows and `P` panels.
    ///
    /// # Safety
    /// The processor has the instruction set; the weights hold `R` rows of `cols` elements, the
    /// panels `cols` columns, the sums `R * PANEL` values.
    unsafe fn tile<const R: usize, const P: usize>(tile: &Tile<X, W, Self::Operand>);
}

/// Writes `out[(p * outputs + r) * PANEL + lane]` for every panel `p` and weight row `r`.
///
/// # Safety
/// The processor has the instruction set of `T`.
#[inline(always)]
pub(super) unsafe fn walk<T: LaneTiles<X, W>, X: Input, W>(
    call: &LanesCall<'_, X, W>,
    out: &mut [f32],
) {
    let mut staged = MaybeUninit::<[MaybeUninit<T::Operand>; MAX_ROWS * (MAX_DEPTH + GAP)]>::uninit();
    let staged: *mut T::Operand = staged.as_mut_ptr().cast();
    if call.cols == 0 {
        out.fill(0.0);
    }
    let out = out.as_mut_ptr();
    for first_panel in (0..call.panel_count).step_by(PANELS_AT_ONCE) {
        let panels = first_panel..call.panel_count.min(first_panel + PANELS_AT_ONCE);
        let depth = PANEL_BYTES / (panels.len() * PANEL * size_of::<X>());
        let depth = (depth / 64 * 64).clamp(256, MAX_DEPTH);
        for first_col in (0..call.cols).step_by(depth) {
            let cols = depth.min(call.cols - first_col);
            for first_row in (0..call.outputs).step_by(T::ROWS) {
                let rows = T::ROWS.min(call.outputs - first_row);
                let offset = first_row * call.row_stride + first_col;
                // SAFETY: `Kernel::lanes` checked that these rows and columns exist.
                let stored = unsafe { call.weights.as_ptr().add(offset) };
                let (weights, row_stride) = match T::STAGE {
                    Some(stage) => {
                        for row in 0..rows {
                            // SAFETY: as above; the buffer has room for `MAX_ROWS` rows of
                            // `MAX_DEPTH` columns, each with its gap.
                            unsafe {
                                let to = staged.add(row * (depth + GAP));
                                stage(stored.add(row * call.row_stride), to, cols);
                            }
                        }
                        (staged.cast_const(), depth + GAP)
                    }
                    None => (stored.cast::<T::Operand>(), call.row_stride),
                };
                // The rows that are staged next, while this tile multiplies what is near.
                let next = stored.wrapping_add(T::ROWS * call.row_stride);
                let mut panel = panels.start;
                while panel < panels.end {
                    let width = T::PANELS.min(panels.end - panel);
                    let at = |p: usize| {
                        let panel = panel + p.min(width - 1);
                        // SAFETY: the panel has this column, and `out` a place for it.
                        unsafe {
                            let step = first_col / X::PAIR * call.step_stride;
                            let x = call.panels.as_ptr().add(panel * call.panel_stride + step);
                            let sums = (panel * call.outputs + first_row) * PANEL;
                            (x, out.add(sums))
                        }
                    };
                    let ((x0, sums0), (x1, sums1)) = (at(0), at(1));
                    let tile = Tile {
                        panels: [x0, x1],
                        step_stride: call.step_stride,
                        weights,
                        row_stride,
                        cols,
                        sums: [sums0, sums1],
                        begin: first_col == 0,
                        ahead: if panel == 0 && T::STAGE.is_some() { next } else { null() },
                        ahead_stride: call.row_stride,
                    };
                    // SAFETY: weights, panels and sums are as the tile wants them.
                    unsafe {
                        if width == 2 && T::PANELS == 2 {
                            tile_of::<T, X, W, 2>(rows, &tile);
                        } else {
                            tile_of::<T, X, W, 1>(rows, &tile);
                        }
                    }
                    panel += width;
                }
            }
        }
    }
}

/// # Safety
/// As for [`LaneTiles::tile`] with `rows` rows.
#[inline(always)]
unsafe fn tile_of<T: LaneTiles<X, W>, X, W, const P: usize>(
    rows: usize,
    tile: &Tile<X, W, T::Operand>,
) {
    // SAFETY: as the caller owes.
    unsafe {
        match rows {
            1 => T::tile::<1, P>(tile),
            2 => T::tile::<2, P>(tile),
            3 => T::tile::<3, P>(tile),
            4 => T::tile::<4, P>(tile),
            5 if T::ROWS >= 5 => T::tile::<5, P>(tile),
            6 if T::ROWS >= 6 => T::tile::<6, P>(tile),
            7 if T::ROWS >= 7 => T::tile::<7, P>(tile),
            8 if T::ROWS >= 8 => T::tile::<8, P>(tile),
            _ => unreachable!("a tile has at most `ROWS` rows"),
        }
    }
}
