//! Many input rows: the rows side by side in the lanes, weights broadcast from where they lie.
//!
//! Sixteen input rows are packed into a panel, column after column. A tile broadcasts one column
//! of a few weight rows and multiplies it with that column of a panel, so nothing of the weights is
//! reordered and an output is summed in the order of the columns. Weights of a type the instruction
//! does not take are widened a few rows at a time into a buffer in the first-level cache.

use std::{mem::MaybeUninit, ops::Range, ptr::null};

use super::{
    panel::{Input, PANEL},
    prefetch::prefetch,
};

/// Columns that are multiplied before the next ones, at most: as many as a widened row holds. Eight
/// widened rows are 64 KiB; with fewer panels, `panel_bytes` allows more columns than with many.
const MAX_DEPTH: usize = 2048;

/// Panels that pass over a block of weight rows together.
const PANELS_AT_ONCE: usize = 8;

/// Weight rows of the highest tile of any instruction set: more, a page apart, would not fit in
/// one set of the first-level cache.
const MAX_ROWS: usize = 8;

/// From a widened row to the next. A constant, because then the addresses of a tile cost nothing;
/// not a power of two, because then its rows do not fall into one set of the cache.
const STAGED_STRIDE: usize = MAX_DEPTH + 8;

/// A checked call: panel `p` is `panels[p * panel_stride..]`, whose column (pair) `k` begins at `k
/// * step_stride` and is `X::PAIR * PANEL` values; output `r` is `weights[r *
/// row_stride..][..cols]`. The functions that walk it trust that all of these exist, and that `out`
/// holds `panel_count * outputs * PANEL` values.
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
    /// Bytes of the panels that all weight rows of a block pass over.
    pub(super) panel_bytes: usize,
}

/// One tile: some weight rows times one or two panels, over some columns.
struct Tile<X, W, S> {
    panels: [*const X; 2],
    step_stride: usize,
    weights: *const S,
    row_stride: usize,
    cols: usize,
    /// Sixteen sums for each weight row, for each panel.
    sums: [*mut f32; 2],
    /// Whether the sums begin here, or go on from what is there.
    begin: bool,
    /// Weight rows to prefetch meanwhile, `ahead_stride` apart; null for none.
    ahead: *const W,
    ahead_stride: usize,
}

impl<X, W, S> Tile<X, W, S> {
    /// Prefetches columns `k..k + COLS` of the `R` rows ahead.
    #[inline(always)]
    fn prefetch<const R: usize, const COLS: usize>(&self, k: usize) {
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

/// Registers of one instruction set: a tile is a few weight rows times one or two panels, each pair
/// with separate accumulators.
///
/// The methods are `inline(always)`, and no closures are near them, so that they are compiled with
/// the features of the function that calls [`walk`]; they must not be called from anywhere else.
///
/// # Safety
/// Every method may be called only where the processor has the instruction set. What it may read
/// and write is said at each. Pointers are aligned for their elements, and need not be aligned to
/// more.
pub(super) trait LaneTiles<X: Input, W> {
    /// The type of weights that the tile multiplies: `W`, or the type it is widened to.
    type Operand;

    /// Sixteen sums.
    type Sums: Copy;

    /// Weight rows of the highest tile; at most `MAX_ROWS`.
    const ROWS: usize;

    /// Panels of the widest tile, 1 or 2.
    const PANELS: usize;

    /// Widens `count` weights, or is `None` if the tile reads them where they lie. Unsafe to call:
    /// `count` elements can be read from `from` and written to `to`.
    const STAGE: Option<unsafe fn(from: *const W, to: *mut Self::Operand, count: usize)>;

    /// Whether panels may lie in rows, their columns any distance apart. Only attention has such,
    /// over values of f32; tiles for other weights would be code that never runs.
    const IN_ROWS: bool = Self::STAGE.is_none() && X::PAIR == 1;

    /// No sums yet.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn zero() -> Self::Sums;

    /// Loads sums.
    ///
    /// # Safety
    /// [`PANEL`] values can be read.
    unsafe fn load(from: *const f32) -> Self::Sums;

    /// Stores sums.
    ///
    /// # Safety
    /// [`PANEL`] values can be written.
    unsafe fn store(sums: Self::Sums, to: *mut f32);

    /// Adds a column (a pair of columns, if the input dtype pairs them): `weights`, one in each
    /// row, times the values at `panels`.
    ///
    /// # Safety
    /// `X::PAIR * PANEL` values can be read at each panel, and [`Input::PAIR`] operands at
    /// `weights + r * row_stride` for every `r < R`.
    unsafe fn step<const R: usize, const P: usize>(
        sums: &mut [[Self::Sums; P]; R],
        panels: [*const X; P],
        weights: *const Self::Operand,
        row_stride: usize,
    );

    /// Adds a last column that has no partner; its partner in the panels is zero.
    ///
    /// # Safety
    /// `X::PAIR * PANEL` values can be read at each panel, and one operand, but no more, at
    /// `weights + r * row_stride` for every `r < R`.
    unsafe fn odd<const R: usize, const P: usize>(
        sums: &mut [[Self::Sums; P]; R],
        panels: [*const X; P],
        weights: *const Self::Operand,
        row_stride: usize,
    );
}

/// Writes `out[(p * outputs + r) * PANEL + lane]` for every panel `p` and weight row `r`.
///
/// # Safety
/// The processor has the instruction set of `T`; the call is one that [`LanesCall`] describes, and
/// `out` holds its results.
#[inline(always)]
pub(super) unsafe fn walk<T: LaneTiles<X, W>, X: Input, W>(
    call: &LanesCall<'_, X, W>,
    out: &mut [f32],
) {
    let mut staged = MaybeUninit::<[MaybeUninit<T::Operand>; MAX_ROWS * STAGED_STRIDE]>::uninit();
    let staged: *mut T::Operand = staged.as_mut_ptr().cast();
    if call.cols == 0 {
        out.fill(0.0);
    }
    let out = out.as_mut_ptr();
    for first_panel in (0..call.panel_count).step_by(PANELS_AT_ONCE) {
        let panels = first_panel..call.panel_count.min(first_panel + PANELS_AT_ONCE);
        let depth = call.panel_bytes / (panels.len() * PANEL * size_of::<X>());
        let depth = (depth / 64 * 64).clamp(256, MAX_DEPTH);
        for first_col in (0..call.cols).step_by(depth) {
            let cols = depth.min(call.cols - first_col);
            for first_row in (0..call.outputs).step_by(T::ROWS) {
                let rows = T::ROWS.min(call.outputs - first_row);
                let offset = first_row * call.row_stride + first_col;
                // SAFETY: row and column exist, by this function's contract.
                let stored = unsafe { call.weights.as_ptr().add(offset) };
                let (weights, row_stride) = match T::STAGE {
                    Some(stage) => {
                        for row in 0..rows {
                            // SAFETY: the row has `cols` columns from here on; the buffer holds
                            // `MAX_ROWS >= rows` rows of `STAGED_STRIDE >= MAX_DEPTH >= cols`.
                            unsafe {
                                let to = staged.add(row * STAGED_STRIDE);
                                stage(stored.add(row * call.row_stride), to, cols);
                            }
                        }
                        (staged.cast_const(), STAGED_STRIDE)
                    }
                    None => (stored.cast::<T::Operand>(), call.row_stride),
                };
                let block = RowBlock {
                    rows: first_row..first_row + rows,
                    first_col,
                    cols,
                    weights,
                    row_stride,
                    next: stored.wrapping_add(T::ROWS * call.row_stride),
                };
                // SAFETY: row and column exist; `cols` operands lie at each of the rows from
                // `weights` on, where they are stored or staged.
                unsafe { over_panels::<T, X, W>(call, out, panels.clone(), &block) };
            }
        }
    }
}

/// Weight rows of one tile, over some columns.
struct RowBlock<W, S> {
    rows: Range<usize>,
    first_col: usize,
    cols: usize,
    weights: *const S,
    row_stride: usize,
    /// The rows that come next: they are prefetched while the first panel passes over these.
    next: *const W,
}

/// Some weight rows over some panels.
///
/// # Safety
/// As for [`walk`], with `out` the first result of the call. The rows, the columns and the panels
/// are those of the call, and `block.cols` operands can be read at each of the rows,
/// `block.row_stride` apart, from `block.weights` on.
#[inline(always)]
unsafe fn over_panels<T: LaneTiles<X, W>, X: Input, W>(
    call: &LanesCall<'_, X, W>,
    out: *mut f32,
    panels: Range<usize>,
    block: &RowBlock<W, T::Operand>,
) {
    let rows = block.rows.len();
    let mut panel = panels.start;
    while panel < panels.end {
        let width = T::PANELS.min(panels.end - panel);
        let mut x = [call.panels.as_ptr(); 2];
        let mut sums = [out; 2];
        for p in 0..2 {
            let panel = panel + p.min(width - 1);
            let step = block.first_col / X::PAIR * call.step_stride;
            // SAFETY: the panel has this column and `out` this row of its results, by this
            // function's contract.
            unsafe {
                x[p] = x[p].add(panel * call.panel_stride + step);
                sums[p] = sums[p].add((panel * call.outputs + block.rows.start) * PANEL);
            }
        }
        let tile = Tile {
            panels: x,
            step_stride: call.step_stride,
            weights: block.weights,
            row_stride: block.row_stride,
            cols: block.cols,
            sums,
            begin: block.first_col == 0,
            ahead: if panel == panels.start { block.next } else { null() },
            ahead_stride: call.row_stride,
        };
        // SAFETY: `rows` rows of `cols` columns lie at `weights`, `cols` columns at the panels from
        // this one on, and their sums in `out`, by this function's contract.
        unsafe {
            let packed = call.step_stride == X::PAIR * PANEL;
            match (width == 2 && T::PANELS == 2, packed) {
                (true, true) => tile_of::<T, X, W, 2, true>(rows, &tile),
                (true, false) if T::IN_ROWS => tile_of::<T, X, W, 2, false>(rows, &tile),
                (false, true) => tile_of::<T, X, W, 1, true>(rows, &tile),
                (false, false) if T::IN_ROWS => tile_of::<T, X, W, 1, false>(rows, &tile),
                (_, false) => unreachable!("these panels are packed"),
            }
        }
        panel += width;
    }
}

/// [`one_tile`] of `rows` rows.
///
/// # Safety
/// As for [`one_tile`] with `R = rows`.
#[inline(always)]
unsafe fn tile_of<T: LaneTiles<X, W>, X: Input, W, const P: usize, const PACKED: bool>(
    rows: usize,
    tile: &Tile<X, W, T::Operand>,
) {
    // SAFETY: the contract of `one_tile` for `rows` rows is this function's.
    unsafe {
        match rows {
            1 => one_tile::<T, X, W, 1, P, PACKED>(tile),
            2 => one_tile::<T, X, W, 2, P, PACKED>(tile),
            3 => one_tile::<T, X, W, 3, P, PACKED>(tile),
            4 => one_tile::<T, X, W, 4, P, PACKED>(tile),
            5 if T::ROWS >= 5 => one_tile::<T, X, W, 5, P, PACKED>(tile),
            6 if T::ROWS >= 6 => one_tile::<T, X, W, 6, P, PACKED>(tile),
            7 if T::ROWS >= 7 => one_tile::<T, X, W, 7, P, PACKED>(tile),
            8 if T::ROWS >= 8 => one_tile::<T, X, W, 8, P, PACKED>(tile),
            _ => unreachable!("a tile has at most `ROWS` rows"),
        }
    }
}

/// Adds `Σ_k weights[r][k] · panel[p][k]` to the sums of `R` rows and `P` panels. `PACKED` panels
/// have their columns side by side, which spares registers.
///
/// # Safety
/// The processor has the instruction set of `T`. `cols` operands can be read at each of `R` weight
/// rows, `row_stride` apart ([`STAGED_STRIDE`] if the tile has a stage), `cols` columns at each of
/// `P` panels, and `R * PANEL` sums can be read and written for each of them.
#[inline(always)]
unsafe fn one_tile<
    T: LaneTiles<X, W>,
    X: Input,
    W,
    const R: usize,
    const P: usize,
    const PACKED: bool,
>(
    tile: &Tile<X, W, T::Operand>,
) {
    /// Columns between prefetches: a cache line of 16-bit weights.
    const LINE: usize = 32;
    // Columns of one turn of the loop; unrolled further, the sums would leave their registers.
    let turn = if PACKED { 4 } else { 2 * X::PAIR };
    let step_stride = if PACKED { X::PAIR * PANEL } else { tile.step_stride };
    let row_stride = if T::STAGE.is_some() { STAGED_STRIDE } else { tile.row_stride };
    // SAFETY: each step is of a column (pair) below `cols`, which the weight rows and the panels
    // have; the pointers end behind the last.
    unsafe {
        let mut sums = [[T::zero(); P]; R];
        if !tile.begin {
            for r in 0..R {
                for p in 0..P {
                    sums[r][p] = T::load(tile.sums[p].add(r * PANEL));
                }
            }
        }
        let mut panels = [tile.panels[0]; P];
        if P == 2 {
            panels[1] = tile.panels[1];
        }
        let mut weights = tile.weights;
        let mut k = 0;
        while k + turn <= tile.cols {
            if k.is_multiple_of(LINE) {
                tile.prefetch::<R, LINE>(k);
            }
            for _ in 0..turn / X::PAIR {
                T::step(&mut sums, panels, weights, row_stride);
                for p in 0..P {
                    panels[p] = panels[p].add(step_stride);
                }
                weights = weights.add(X::PAIR);
            }
            k += turn;
        }
        while k + X::PAIR <= tile.cols {
            T::step(&mut sums, panels, weights, row_stride);
            for p in 0..P {
                panels[p] = panels[p].add(step_stride);
            }
            weights = weights.add(X::PAIR);
            k += X::PAIR;
        }
        if k < tile.cols {
            T::odd(&mut sums, panels, weights, row_stride);
        }
        for r in 0..R {
            for p in 0..P {
                T::store(sums[r][p], tile.sums[p].add(r * PANEL));
            }
        }
    }
}
