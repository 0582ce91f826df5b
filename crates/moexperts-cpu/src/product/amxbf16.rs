//! AMX-BF16: tiles of sixteen weight rows times a panel, thirty-two columns an instruction.
//!
//! Weight rows as they lie are one operand, a panel as it is packed is the other, and a tile of sums
//! is what the result holds. Two tiles of rows meet two panels at a time. Where more panels follow,
//! the first two leave the rows packed for them: rows a power of two apart would fall into one set
//! of the first-level cache. The last columns, where they do not fill a tile, are copied into tiles
//! that are zero elsewhere: nothing beyond a row is read, and every output is summed alike.

use std::{mem::MaybeUninit, ops::Range};

use half::bf16;

pub(super) use super::avx512bf16::dot;
use super::{PANEL, lanes::LanesCall, prefetch};
use crate::amx::{self, ROW_BYTES, ROWS, Shapes, Tiles};

/// Columns of a tile.
const COLS: usize = ROW_BYTES / size_of::<bf16>();

/// Values of a tile.
const VALUES: usize = ROWS * COLS;

/// Columns that are multiplied before the next ones, at most, where the rows are packed.
const MAX_DEPTH: usize = 1024;

/// Panels that pass over a block of weight rows together.
const PANELS_AT_ONCE: usize = 8;

/// Weight rows of two tiles.
const TWO_TILES: usize = 2 * ROWS;

/// A tile of weights or of a panel.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Packed([bf16; VALUES]);

const ZERO: Packed = Packed([bf16::ZERO; VALUES]);

/// Room for two tiles of rows, packed.
type Room = MaybeUninit<[[Packed; 2]; MAX_DEPTH / COLS]>;

/// Writes `out[(p * outputs + r) * PANEL + lane]` for every panel `p` and weight row `r`.
///
/// # Safety
/// The process may use AMX-BF16.
pub(super) unsafe fn lanes(call: &LanesCall<'_, bf16, bf16>, out: &mut [f32]) {
    const { assert!(PANEL == ROWS && PANEL * size_of::<f32>() == ROW_BYTES) };
    assert_eq!(call.step_stride, 2 * PANEL, "panels of bf16 are packed");
    if call.cols == 0 || call.outputs == 0 {
        return out.fill(0.0);
    }
    let heights = heights(call.outputs);
    let mut walk = Walk {
        call,
        out,
        // SAFETY: as the caller owes; nothing that is called from here makes others.
        tiles: unsafe { Tiles::new(&shapes(heights)) },
        heights,
        last_of_panels: [ZERO; PANELS_AT_ONCE],
        room: &mut Room::uninit(),
    };
    for first in (0..call.panel_count).step_by(PANELS_AT_ONCE) {
        walk.panels(first..call.panel_count.min(first + PANELS_AT_ONCE));
    }
}

/// Rows of the first and of the second tile, of so many that are left.
fn heights(rows: usize) -> [usize; 2] {
    [rows.min(ROWS), rows.saturating_sub(ROWS).min(ROWS)]
}

/// Four tiles of sums, then two of weight rows, so high, and two of panels.
fn shapes([first, second]: [usize; 2]) -> Shapes {
    Shapes::new([first, first, second, second, first, second, ROWS, ROWS])
}

/// A call on its way.
struct Walk<'a> {
    call: &'a LanesCall<'a, bf16, bf16>,
    out: &'a mut [f32],
    tiles: Tiles,
    /// Rows of the two tiles of weights.
    heights: [usize; 2],
    /// The columns of the panels that do not fill a tile.
    last_of_panels: [Packed; PANELS_AT_ONCE],
    room: &'a mut Room,
}

/// Weight rows of two tiles, or fewer, over some columns.
struct Rows {
    first: usize,
    count: usize,
    /// Columns that fill tiles.
    cols: Range<usize>,
    /// The columns after them, if they do not fill a tile.
    last: Option<[Packed; 2]>,
    /// The rows that come next.
    ahead: *const bf16,
}

/// One or two panels that meet some rows.
struct Pair {
    first: usize,
    /// The first of them among those that pass over the rows.
    place: usize,
    packing: Packing,
    /// Which of the rows ahead are asked for meanwhile.
    asked: Range<usize>,
}

/// What becomes of the rows.
#[derive(Clone, Copy, PartialEq)]
enum Packing {
    Nothing,
    /// They are packed into the room.
    Write,
    /// They are read from there.
    Read,
}

impl Walk<'_> {
    /// All weight rows over some panels.
    fn panels(&mut self, panels: Range<usize>) {
        let call = self.call;
        let whole = call.cols / COLS * COLS;
        if whole < call.cols {
            for (last, panel) in self.last_of_panels.iter_mut().zip(panels.clone()) {
                let values = &call.panels[panel * call.panel_stride..][..call.panel_stride];
                let values = &values[whole * PANEL..];
                last.0[..values.len()].copy_from_slice(values);
            }
        }
        let depth = match panels.len() {
            // Nothing is packed.
            1 | 2 => call.cols,
            count => (call.panel_bytes / (count * PANEL * size_of::<bf16>()) / COLS * COLS)
                .clamp(MAX_DEPTH / 4, MAX_DEPTH),
        };
        for first_col in (0..call.cols).step_by(depth) {
            let end = call.cols.min(first_col + depth);
            for first in (0..call.outputs).step_by(TWO_TILES) {
                let count = TWO_TILES.min(call.outputs - first);
                let ahead = if first + count < call.outputs || end == call.cols {
                    (first + count) * call.row_stride + first_col
                } else {
                    end
                };
                let rows = Rows {
                    first,
                    count,
                    cols: first_col..whole.min(end),
                    last: (whole < end).then(|| self.last_of_rows(first..first + count, whole)),
                    ahead: call.weights.as_ptr().wrapping_add(ahead),
                };
                self.rows(&rows, panels.clone());
            }
        }
    }

    /// The columns of some rows from `whole` on.
    fn last_of_rows(&self, rows: Range<usize>, whole: usize) -> [Packed; 2] {
        let call = self.call;
        let mut tiles = [ZERO; 2];
        let places = tiles.iter_mut().flat_map(|Packed(tile)| tile.chunks_exact_mut(COLS));
        for (place, row) in places.zip(rows) {
            let values = &call.weights[row * call.row_stride..][whole..call.cols];
            place[..values.len()].copy_from_slice(values);
        }
        tiles
    }

    /// Some rows over some panels.
    fn rows(&mut self, rows: &Rows, panels: Range<usize>) {
        let heights = heights(rows.count);
        if heights != self.heights {
            self.tiles.reshape(&shapes(heights));
            self.heights = heights;
        }
        let share = |place: usize| TWO_TILES * place.min(panels.len()) / panels.len();
        for first in panels.clone().step_by(2) {
            let place = first - panels.start;
            let (packing, asked) = match place {
                // Tiles are read as fast as memory is, asked for or not.
                _ if panels.len() <= 2 => (Packing::Nothing, 0..0),
                0 => (Packing::Write, 0..share(2)),
                _ => (Packing::Read, share(place)..share(place + 2)),
            };
            let pair = Pair { first, place, packing, asked };
            let two_panels = first + 1 < panels.end;
            // SAFETY: `Kernel::lanes` checked that rows, panels and results exist; the tiles are as
            // high as the rows are many, and what is read packed was packed for the first pair.
            unsafe {
                match (rows.count > ROWS, two_panels) {
                    (true, true) => self.pair::<2, 2>(rows, &pair),
                    (true, false) => self.pair::<2, 1>(rows, &pair),
                    (false, true) => self.pair::<1, 2>(rows, &pair),
                    (false, false) => self.pair::<1, 1>(rows, &pair),
                }
            }
        }
    }

    /// `R` tiles of rows times `P` panels.
    ///
    /// # Safety
    /// The tiles have the shapes of the rows; rows, panels and their results exist, and the rows
    /// are packed if they are read so.
    #[inline(always)]
    unsafe fn pair<const R: usize, const P: usize>(&mut self, rows: &Rows, pair: &Pair) {
        let call = self.call;
        let stride = call.row_stride * size_of::<bf16>();
        let second = call.row_stride * ROWS;
        let mut packed: *mut [Packed; 2] = self.room.as_mut_ptr().cast();
        let mut ahead = rows.ahead.wrapping_add(pair.asked.start * call.row_stride);
        // SAFETY: as the caller owes; a column after the last is pointed to, but not read.
        unsafe {
            let out = self.out.as_mut_ptr().add((pair.first * call.outputs + rows.first) * PANEL);
            let out = [out, out.wrapping_add(call.outputs * PANEL)];
            let begin = rows.cols.start == 0;
            sums::<R, P>(if begin { Sums::Begin } else { Sums::Resume }, out);
            let place = rows.first * call.row_stride + rows.cols.start;
            let mut weights = call.weights.as_ptr().wrapping_add(place);
            let place = pair.first * call.panel_stride + rows.cols.start * PANEL;
            let mut x = call.panels.as_ptr().wrapping_add(place);
            for _ in 0..rows.cols.len() / COLS {
                for row in 0..pair.asked.len() {
                    prefetch(ahead.wrapping_add(row * call.row_stride));
                }
                let panels = [x, x.wrapping_add(call.panel_stride)];
                if pair.packing == Packing::Read {
                    let weights = [&raw const (*packed)[0], &raw const (*packed)[1]];
                    products::<R, P>(weights.map(<*const Packed>::cast), ROW_BYTES, panels);
                } else {
                    products::<R, P>([weights, weights.wrapping_add(second)], stride, panels);
                }
                if pair.packing == Packing::Write {
                    amx::store::<4>((&raw mut (*packed)[0]).cast(), ROW_BYTES);
                    if R == 2 {
                        amx::store::<5>((&raw mut (*packed)[1]).cast(), ROW_BYTES);
                    }
                }
                packed = packed.wrapping_add(1);
                weights = weights.wrapping_add(COLS);
                x = x.wrapping_add(COLS * PANEL);
                ahead = ahead.wrapping_add(COLS);
            }
            if let Some(rows) = &rows.last {
                let panel = self.last_of_panels[pair.place].0.as_ptr();
                let weights = [rows[0].0.as_ptr(), rows[1].0.as_ptr()];
                products::<R, P>(weights, ROW_BYTES, [panel, panel.wrapping_add(VALUES)]);
            }
            sums::<R, P>(Sums::Finish, out);
        }
    }
}

/// Adds the products of a tile's columns of `R` tiles of rows, `stride` bytes apart, and `P` panels.
///
/// # Safety
/// The tiles have their shapes, and these columns lie behind the pointers.
#[inline(always)]
unsafe fn products<const R: usize, const P: usize>(
    weights: [*const bf16; 2],
    stride: usize,
    panels: [*const bf16; 2],
) {
    // SAFETY: as the caller owes.
    unsafe {
        amx::load::<6>(panels[0].cast(), ROW_BYTES);
        amx::load::<4>(weights[0].cast(), stride);
        amx::multiply_bf16::<0, 4, 6>();
        if P == 2 {
            amx::load::<7>(panels[1].cast(), ROW_BYTES);
            amx::multiply_bf16::<1, 4, 7>();
        }
        if R == 2 {
            amx::load::<5>(weights[1].cast(), stride);
            amx::multiply_bf16::<2, 5, 6>();
            if P == 2 {
                amx::multiply_bf16::<3, 5, 7>();
            }
        }
    }
}

/// What happens to the sums.
#[derive(Clone, Copy)]
enum Sums {
    /// They become zero.
    Begin,
    /// They go on from the result.
    Resume,
    /// They become the result.
    Finish,
}

/// # Safety
/// The tiles have their shapes, and there is room for their sums behind the pointers.
#[inline(always)]
unsafe fn sums<const R: usize, const P: usize>(what: Sums, at: [*mut f32; 2]) {
    // SAFETY: as the caller owes.
    unsafe {
        one_tile_of_sums::<0>(what, at[0]);
        if P == 2 {
            one_tile_of_sums::<1>(what, at[1]);
        }
        if R == 2 {
            one_tile_of_sums::<2>(what, at[0].add(ROWS * PANEL));
            if P == 2 {
                one_tile_of_sums::<3>(what, at[1].add(ROWS * PANEL));
            }
        }
    }
}

/// # Safety
/// As for [`sums`].
#[inline(always)]
unsafe fn one_tile_of_sums<const TILE: usize>(what: Sums, at: *mut f32) {
    // SAFETY: as the caller owes.
    unsafe {
        match what {
            Sums::Begin => amx::zero::<TILE>(),
            Sums::Resume => amx::load::<TILE>(at.cast(), ROW_BYTES),
            Sums::Finish => amx::store::<TILE>(at.cast(), ROW_BYTES),
        }
    }
}
