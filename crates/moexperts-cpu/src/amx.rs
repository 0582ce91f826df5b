//! AMX: whether it is there, and its instructions, for which Rust has no stable intrinsics.
//!
//! The compiler has no use for tiles, and keeps these statements in order. So tiles keep their
//! shapes and values from one statement to the next, and none has to be named as clobbered.

use std::{
    arch::{
        asm,
        x86_64::{__cpuid_count, _xgetbv},
    },
    sync::OnceLock,
};

/// Rows of a whole tile.
pub(crate) const ROWS: usize = 16;

/// Bytes of a row of a whole tile.
pub(crate) const ROW_BYTES: usize = 64;

/// Whether this process may use bf16 tiles: the processor has them, and the system saves them.
///
/// The processor must have AVX-512.
pub(crate) fn runs_here() -> bool {
    static RUNS: OnceLock<bool> = OnceLock::new();
    *RUNS.get_or_init(|| {
        const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
        const TILE_STATE: u64 = 1 << 17 | 1 << 18;
        // SAFETY: every x86-64 processor has `cpuid`, those with AVX-512 this leaf of it.
        #[allow(unused_unsafe, reason = "safe in later versions of Rust")]
        let leaf = unsafe { __cpuid_count(7, 0) };
        leaf.edx & BF16_AND_TILE == BF16_AND_TILE
            // SAFETY: systems that save AVX-512 registers do so with `xsave`.
            && unsafe { saved_state() } & TILE_STATE == TILE_STATE
            && permitted()
    })
}

#[target_feature(enable = "xsave")]
fn saved_state() -> u64 {
    // SAFETY: register 0 is there where `xsave` is.
    unsafe { _xgetbv(0) }
}

/// Asks the system for room to save tiles in; it counts for all threads of the process.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: this call takes no pointers; the kernel changes no registers but these.
    unsafe {
        asm!(
            "syscall",
            inout("rax") result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// The shapes of the tiles, as the processor reads them.
#[repr(C, align(64))]
pub(crate) struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// Tiles with so many rows, at most [`ROWS`], of [`ROW_BYTES`]; one without rows must not be
    /// used.
    pub(crate) fn new(rows: [usize; 8]) -> Self {
        let mut shapes =
            Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (tile, rows) in rows.into_iter().enumerate().filter(|(_, rows)| *rows > 0) {
            assert!(rows <= ROWS, "rows of a tile");
            shapes.rows[tile] = rows as u8;
            shapes.row_bytes[tile] = ROW_BYTES as u16;
        }
        shapes
    }
}

/// The tiles of this thread, in use until this is dropped.
pub(crate) struct Tiles(());

impl Tiles {
    /// # Safety
    /// [`runs_here`]; the thread has no other.
    pub(crate) unsafe fn new(shapes: &Shapes) -> Self {
        let mut tiles = Self(());
        tiles.reshape(shapes);
        tiles
    }

    /// Gives the tiles other shapes; their values become zero.
    #[inline(always)]
    pub(crate) fn reshape(&mut self, shapes: &Shapes) {
        // SAFETY: `new` was promised AMX, and `Shapes::new` makes only shapes that it takes.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) shapes, options(nostack, preserves_flags, readonly));
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: `new` was promised AMX.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
}

/// # Safety
/// [`Tiles`] are in use, and the tile has rows.
#[inline(always)]
pub(crate) unsafe fn zero<const TILE: usize>() {
    // SAFETY: as the caller owes.
    unsafe {
        asm!("tilezero tmm{}", const TILE, options(nostack, preserves_flags, nomem));
    }
}

/// Reads the rows of a tile, `stride` bytes apart.
///
/// # Safety
/// [`Tiles`] are in use, the tile has rows, and they lie behind the pointer.
#[inline(always)]
pub(crate) unsafe fn load<const TILE: usize>(from: *const u8, stride: usize) {
    // SAFETY: as the caller owes.
    unsafe {
        asm!(
            "tileloadd tmm{}, [{} + {}]",
            const TILE,
            in(reg) from,
            in(reg) stride,
            options(nostack, preserves_flags, readonly),
        );
    }
}

/// Writes the rows of a tile, `stride` bytes apart.
///
/// # Safety
/// [`Tiles`] are in use, the tile has rows, and the pointer has room for them.
#[inline(always)]
pub(crate) unsafe fn store<const TILE: usize>(to: *mut u8, stride: usize) {
    // SAFETY: as the caller owes.
    unsafe {
        asm!(
            "tilestored [{} + {}], tmm{}",
            in(reg) to,
            in(reg) stride,
            const TILE,
            options(nostack, preserves_flags),
        );
    }
}

/// Adds the products of the rows of tile `A` with the columns of tile `B`, of which each row holds
/// a pair of values for each column, to the f32 values of tile `SUMS`.
///
/// # Safety
/// [`Tiles`] are in use; `SUMS` has the rows of `A`, and `B` a row for every 4 bytes of them.
#[inline(always)]
pub(crate) unsafe fn multiply_bf16<const SUMS: usize, const A: usize, const B: usize>() {
    // SAFETY: as the caller owes.
    unsafe {
        asm!(
            "tdpbf16ps tmm{}, tmm{}, tmm{}",
            const SUMS,
            const A,
            const B,
            options(nostack, preserves_flags, nomem),
        );
    }
}
