//! AMX-BF16: tiles of sixteen weight rows times a panel, thirty-two columns an instruction.
//!
//! Weight rows as they lie are one operand, a panel as it is packed is the other, and a tile of
//! sums is what the result holds. Two tiles of rows meet two panels at a time: four products for
//! four loads, where one by one would need two loads each. Where more panels follow, the first two
//! leave the rows packed for them: rows a power of two apart would fall into one set of the
//! first-level cache. The last columns, where they do not fill a tile, are copied into tiles that
//! are zero elsewhere: nothing beyond a row is read, and every output is summed alike.

use std::{
    arch::asm,
    mem::{MaybeUninit, offset_of},
    ops::Range,
    ptr,
};

use half::bf16;

pub(super) use super::avx512bf16::dot;
use super::{lanes::LanesCall, panel::PANEL};
use crate::amx::{ROW_BYTES, ROWS, TILE_BYTES, TileShapes, Tiles};

/// Columns of a tile.
const COLS: usize = ROW_BYTES / size_of::<bf16>();

/// Values of a tile.
const VALUES: usize = ROWS * COLS;

/// Columns that are multiplied before the next ones, at most, where the rows are packed: 64 KiB of
/// packed rows leave the second-level cache to the panels.
const MAX_DEPTH: usize = 1024;

/// Panels that pass over a block of weight rows together.
const PANELS_AT_ONCE: usize = 8;

/// Weight rows of two tiles.
const TWO_TILES: usize = 2 * ROWS;

/// A tile of weights or of a panel.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct PackedTile([bf16; VALUES]);

const ZERO: PackedTile = PackedTile([bf16::ZERO; VALUES]);

/// Scratch for two tiles of rows, packed.
type PackedRows = MaybeUninit<[[PackedTile; 2]; MAX_DEPTH / COLS]>;

/// Writes `out[(p * outputs + r) * PANEL + lane]` for every panel `p` and weight row `r`.
///
/// # Safety
/// [`amx::runs_here`](crate::amx::runs_here) is true, and the processor has AVX512-BF16. `out`
/// holds `panels * outputs * PANEL` values, and the call's rows and panels exist: [`LanesCall`].
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
        // SAFETY: this function's contract is that AMX may be used; no other code of this crate
        // that makes `Tiles` is called before these are dropped.
        tiles: unsafe { Tiles::new(&shapes(heights)) },
        heights,
        last_of_panels: [ZERO; PANELS_AT_ONCE],
        packed: &mut PackedRows::uninit(),
    };
    for first in (0..call.panel_count).step_by(PANELS_AT_ONCE) {
        walk.panels(first..call.panel_count.min(first + PANELS_AT_ONCE));
    }
}

/// Rows of the first and of the second tile, where this many are left.
fn heights(rows: usize) -> [usize; 2] {
    [rows.min(ROWS), rows.saturating_sub(ROWS).min(ROWS)]
}

/// Four tiles of sums, then two of weight rows of these heights, and two of panels.
fn shapes([first, second]: [usize; 2]) -> TileShapes {
    TileShapes::new([first, first, second, second, first, second, ROWS, ROWS])
}

/// A call in progress.
struct Walk<'a> {
    call: &'a LanesCall<'a, bf16, bf16>,
    out: &'a mut [f32],
    tiles: Tiles,
    /// Rows of the two tiles of weights.
    heights: [usize; 2],
    /// The columns of the panels that do not fill a tile.
    last_of_panels: [PackedTile; PANELS_AT_ONCE],
    packed: &'a mut PackedRows,
}

/// Weight rows of two tiles, or fewer, over some columns.
struct WeightRows {
    first: usize,
    count: usize,
    /// Columns that fill tiles.
    cols: Range<usize>,
    /// The columns after them, if they do not fill a tile.
    last: Option<[PackedTile; 2]>,
    /// The rows that come next.
    ahead: *const bf16,
}

/// One or two panels that meet some rows.
struct PanelPair {
    first: usize,
    /// The first of them among those that pass over the rows.
    place: usize,
    packing: Packing,
    /// The rows ahead that are prefetched meanwhile.
    prefetched: Range<usize>,
}

/// Whether the rows are packed.
#[derive(Clone, Copy, PartialEq)]
enum Packing {
    Nothing,
    /// They are packed into the scratch.
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
                let rows = WeightRows {
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
    fn last_of_rows(&self, rows: Range<usize>, whole: usize) -> [PackedTile; 2] {
        let call = self.call;
        let mut tiles = [ZERO; 2];
        let places = tiles.iter_mut().flat_map(|PackedTile(tile)| tile.chunks_exact_mut(COLS));
        for (place, row) in places.zip(rows) {
            let values = &call.weights[row * call.row_stride..][whole..call.cols];
            place[..values.len()].copy_from_slice(values);
        }
        tiles
    }

    /// Some rows over some panels.
    fn rows(&mut self, rows: &WeightRows, panels: Range<usize>) {
        let heights = heights(rows.count);
        if heights != self.heights {
            self.tiles.reshape(&shapes(heights));
            self.heights = heights;
        }
        let share = |place: usize| TWO_TILES * place.min(panels.len()) / panels.len();
        for first in panels.clone().step_by(2) {
            let place = first - panels.start;
            let (packing, prefetched) = match place {
                // The loads of the tiles alone are as fast as memory: a prefetch gains nothing.
                _ if panels.len() <= 2 => (Packing::Nothing, 0..0),
                0 => (Packing::Write, 0..share(2)),
                _ => (Packing::Read, share(place)..share(place + 2)),
            };
            let pair = PanelPair { first, place, packing, prefetched };
            let two_panels = first + 1 < panels.end;
            // SAFETY: the rows are `call.outputs` at most, the panels `call.panel_count`; the tiles
            // were just given the heights of the rows; `Read` follows the `Write` of place 0, which
            // packed all of these columns.
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
    /// The tiles have the heights of the rows, `R` of them are not 0; the rows, `P` panels from the
    /// pair's first on and their results exist; the rows are packed if the packing is `Read`.
    #[inline(always)]
    unsafe fn pair<const R: usize, const P: usize>(&mut self, rows: &WeightRows, pair: &PanelPair) {
        let call = self.call;
        let row_bytes = call.row_stride * size_of::<bf16>();
        let first = rows.first * call.row_stride + rows.cols.start;
        let packed: *mut PackedTile = self.packed.as_mut_ptr().cast();
        let (weights, weights_stride, weights_step) = match pair.packing {
            Packing::Read => (packed.cast_const().cast(), ROW_BYTES, 2 * TILE_BYTES),
            Packing::Nothing | Packing::Write => {
                (call.weights.as_ptr().wrapping_add(first), row_bytes, ROW_BYTES)
            }
        };
        let panel = pair.first * call.panel_stride + rows.cols.start * PANEL;
        let panel = call.panels.as_ptr().wrapping_add(panel);
        let out = (pair.first * call.outputs + rows.first) * PANEL;
        let out = self.out.as_mut_ptr().wrapping_add(out);
        let last = rows.last.as_ref();
        let products = Products {
            sums: [out, out.wrapping_add(call.outputs * PANEL)],
            begin: usize::from(rows.cols.start == 0),
            steps: rows.cols.len() / COLS,
            weights: [weights, weights.wrapping_byte_add(ROWS * weights_stride)],
            weights_stride,
            weights_step,
            panels: [panel, panel.wrapping_add(call.panel_stride)],
            packed: if pair.packing == Packing::Write { packed } else { ptr::null_mut() },
            ahead: rows.ahead.wrapping_add(pair.prefetched.start * call.row_stride),
            ahead_stride: row_bytes,
            ahead_rows: pair.prefetched.len(),
            ahead_rewind: ROW_BYTES.wrapping_sub(pair.prefetched.len() * row_bytes),
            last_weights: last.map_or(ptr::null(), |rows| rows.as_ptr()),
            last_panels: self.last_of_panels.as_ptr().wrapping_add(pair.place),
        };
        // SAFETY: this function's contract says that the pointers above lead to existing rows,
        // panels and results, `self.tiles` that the tiles are configured, and `heights` how.
        unsafe { products.run::<R, P>() }
    }
}

/// The work of one statement: the sums of one or two tiles of rows times one or two panels.
#[repr(C)]
struct Products {
    /// For each panel a tile of sums, and behind it that of the second tile of rows.
    sums: [*mut f32; 2],
    /// 1 if the sums begin at zero, 0 if they go on from what is there.
    begin: usize,
    /// Tiles of columns.
    steps: usize,
    /// The two tiles of rows, their rows `weights_stride` bytes apart, and the bytes from a step's
    /// to the next.
    weights: [*const bf16; 2],
    weights_stride: usize,
    weights_step: usize,
    panels: [*const bf16; 2],
    /// Where the rows are packed, two tiles a step; null if they are not.
    packed: *mut PackedTile,
    /// Rows to prefetch, `ahead_stride` bytes apart, in each step a cache line of each.
    ahead: *const bf16,
    ahead_stride: usize,
    ahead_rows: usize,
    /// Bytes from behind the last row ahead to the next cache line of the first, modulo 2 to the
    /// 64.
    ahead_rewind: usize,
    /// The columns that fill no tile: two tiles of rows, null if there are no such columns, and a
    /// tile for each panel.
    last_weights: *const PackedTile,
    last_panels: *const PackedTile,
}

impl Products {
    /// Adds the products of `R` tiles of rows and `P` panels.
    ///
    /// Tiles 0 to 3 are the sums, 4 and 5 the weights, 6 and 7 the panels: a load of weights serves
    /// both panels, a load of a panel both tiles of weights, and the next load runs beside the
    /// products of the last.
    ///
    /// # Safety
    /// The tiles are configured: 4 and 5 with the rows of the first and of the second tile of
    /// weights, 6 and 7 with [`ROWS`], 0 and 1 with the rows of 4, 2 and 3 with those of 5.
    ///
    /// For `R` tiles and `P` panels: [`ROW_BYTES`] can be read at each row of the weights at each
    /// step, `steps` times [`TILE_BYTES`] at each panel, the tiles of `last_weights` and
    /// `last_panels` unless the first is null; [`TILE_BYTES`] can be read and written for each tile
    /// of sums (fewer if it has fewer rows), and at `packed`, unless it is null, two tiles for each
    /// step. Nothing has to be aligned. `ahead` may be any address.
    #[inline(always)]
    unsafe fn run<const R: usize, const P: usize>(&self) {
        // SAFETY: the instructions exist where tiles are configured. They read and write what this
        // function's contract lists, and no tile has a value before or after the statement.
        unsafe {
            asm!(
                // The sums: zero, or what is there.
                "mov {count}, qword ptr [{work} + {SUMS}]",
                "mov {spare}, qword ptr [{work} + {SUMS} + 8]",
                "cmp qword ptr [{work} + {BEGIN}], 0",
                "je 2f",
                "tilezero tmm0",
                ".if {P} == 2",
                "tilezero tmm1",
                ".endif",
                ".if {R} == 2",
                "tilezero tmm2",
                ".if {P} == 2",
                "tilezero tmm3",
                ".endif",
                ".endif",
                "jmp 3f",
                "2:",
                "tileloadd tmm0, [{count} + {line}]",
                ".if {P} == 2",
                "tileloadd tmm1, [{spare} + {line}]",
                ".endif",
                ".if {R} == 2",
                "tileloadd tmm2, [{count} + {line} + {TILE}]",
                ".if {P} == 2",
                "tileloadd tmm3, [{spare} + {line} + {TILE}]",
                ".endif",
                ".endif",
                // Each step: a cache line of the rows ahead, then the products.
                "3:",
                "mov {count}, qword ptr [{work} + {STEPS}]",
                "test {count}, {count}",
                "jz 8f",
                "4:",
                "mov {spare}, qword ptr [{work} + {AHEAD_ROWS}]",
                "test {spare}, {spare}",
                "jz 6f",
                "5:",
                "prefetcht1 byte ptr [{ahead}]",
                "add {ahead}, {ahead_stride}",
                "dec {spare}",
                "jnz 5b",
                "add {ahead}, qword ptr [{work} + {AHEAD_REWIND}]",
                "6:",
                "tileloadd tmm6, [{panel0} + {line}]",
                "tileloadd tmm4, [{weights0} + {stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                ".if {P} == 2",
                "tileloadd tmm7, [{panel1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                ".endif",
                ".if {R} == 2",
                "tileloadd tmm5, [{weights1} + {stride}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                ".if {P} == 2",
                "tdpbf16ps tmm3, tmm5, tmm7",
                ".endif",
                ".endif",
                "test {packed}, {packed}",
                "jz 7f",
                "tilestored [{packed} + {line}], tmm4",
                ".if {R} == 2",
                "tilestored [{packed} + {line} + {TILE}], tmm5",
                ".endif",
                "add {packed}, 2 * {TILE}",
                "7:",
                "add {weights0}, qword ptr [{work} + {WEIGHTS_STEP}]",
                "add {weights1}, qword ptr [{work} + {WEIGHTS_STEP}]",
                "add {panel0}, {TILE}",
                "add {panel1}, {TILE}",
                "dec {count}",
                "jnz 4b",
                // The columns that fill no tile.
                "8:",
                "mov {weights0}, qword ptr [{work} + {LAST_WEIGHTS}]",
                "test {weights0}, {weights0}",
                "jz 9f",
                "mov {panel0}, qword ptr [{work} + {LAST_PANELS}]",
                "tileloadd tmm6, [{panel0} + {line}]",
                "tileloadd tmm4, [{weights0} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                ".if {P} == 2",
                "tileloadd tmm7, [{panel0} + {line} + {TILE}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                ".endif",
                ".if {R} == 2",
                "tileloadd tmm5, [{weights0} + {line} + {TILE}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                ".if {P} == 2",
                "tdpbf16ps tmm3, tmm5, tmm7",
                ".endif",
                ".endif",
                // The sums become the result.
                "9:",
                "mov {count}, qword ptr [{work} + {SUMS}]",
                "mov {spare}, qword ptr [{work} + {SUMS} + 8]",
                "tilestored [{count} + {line}], tmm0",
                ".if {P} == 2",
                "tilestored [{spare} + {line}], tmm1",
                ".endif",
                ".if {R} == 2",
                "tilestored [{count} + {line} + {TILE}], tmm2",
                ".if {P} == 2",
                "tilestored [{spare} + {line} + {TILE}], tmm3",
                ".endif",
                ".endif",
                R = const R,
                P = const P,
                TILE = const TILE_BYTES,
                SUMS = const offset_of!(Self, sums),
                BEGIN = const offset_of!(Self, begin),
                STEPS = const offset_of!(Self, steps),
                WEIGHTS_STEP = const offset_of!(Self, weights_step),
                AHEAD_ROWS = const offset_of!(Self, ahead_rows),
                AHEAD_REWIND = const offset_of!(Self, ahead_rewind),
                LAST_WEIGHTS = const offset_of!(Self, last_weights),
                LAST_PANELS = const offset_of!(Self, last_panels),
                work = in(reg) self,
                line = in(reg) ROW_BYTES,
                stride = in(reg) self.weights_stride,
                weights0 = inout(reg) self.weights[0] => _,
                weights1 = inout(reg) self.weights[1] => _,
                panel0 = inout(reg) self.panels[0] => _,
                panel1 = inout(reg) self.panels[1] => _,
                packed = inout(reg) self.packed => _,
                ahead = inout(reg) self.ahead => _,
                ahead_stride = in(reg) self.ahead_stride,
                count = out(reg) _,
                spare = out(reg) _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
