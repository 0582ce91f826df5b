//! AMX: whether this process may use it, and the configuration of its tiles.
//!
//! Rust has no stable intrinsics for AMX, and no way to pass a tile from one `asm!` statement to
//! the next: `tmm` registers can be clobbered, not read or written. So whatever works with the
//! values of tiles is one statement that loads them, multiplies and stores the sums, and names the
//! tiles as clobbered.
//!
//! Only the configuration (`TILECFG`: rows and bytes of each tile) lasts from [`Tiles::new`] to its
//! end. It is no register that the compiler allocates or saves. What is relied upon:
//!
//! - The compiler emits no AMX instruction, because no function is compiled with AMX enabled.
//! - What runs between two statements is this crate's code and `memcpy`, which use no tiles.
//! - The system saves the configuration with the thread: [`runs_here`] has requested that.

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

/// Bytes of a whole tile.
pub(crate) const TILE_BYTES: usize = ROWS * ROW_BYTES;

/// Whether this process may use bf16 tiles: the processor has them, and the system saves them.
///
/// The processor must have AVX-512.
pub(crate) fn runs_here() -> bool {
    static RUNS: OnceLock<bool> = OnceLock::new();
    *RUNS.get_or_init(|| {
        // Bits of leaf 7 (Intel SDM, volume 2A, CPUID) and of XCR0 (volume 1, 13.3).
        const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
        const TILE_STATE: u64 = 1 << 17 | 1 << 18;
        // SAFETY: every x86-64 processor has `cpuid`, those with AVX-512 this leaf of it.
        #[allow(unused_unsafe, reason = "safe in later versions of Rust")]
        let leaf = unsafe { __cpuid_count(7, 0) };
        leaf.edx & BF16_AND_TILE == BF16_AND_TILE
            // SAFETY: a processor with AVX-512 has `xsave`, and a system that lets processes use
            // AVX-512 has enabled it.
            && unsafe { saved_state() } & TILE_STATE == TILE_STATE
            && permitted()
    })
}

#[target_feature(enable = "xsave")]
fn saved_state() -> u64 {
    // SAFETY: `xgetbv` reads register 0, which every processor with `xsave` has.
    unsafe { _xgetbv(0) }
}

/// Requests that the system saves tiles, which Linux does only on request; it counts for all
/// threads of the process.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    // <asm/prctl.h> and the kernel's Documentation/arch/x86/xstate.rst.
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: `arch_prctl` with this request takes a number and touches no memory.
    let result =
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) };
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// The shapes of the tiles, as `ldtilecfg` reads them.
#[repr(C, align(64))]
pub(crate) struct TileShapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl TileShapes {
    /// Tiles with this number of rows each, at most [`ROWS`], of [`ROW_BYTES`]; one without rows
    /// must not be used.
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

/// The tile configuration of this thread, until this is dropped.
pub(crate) struct Tiles(());

impl Tiles {
    /// # Safety
    /// [`runs_here`] is true; the thread has no other.
    pub(crate) unsafe fn new(shapes: &TileShapes) -> Self {
        let mut tiles = Self(());
        tiles.reshape(shapes);
        tiles
    }

    /// Gives the tiles other shapes.
    #[inline(always)]
    pub(crate) fn reshape(&mut self, shapes: &TileShapes) {
        // SAFETY: a `Tiles` exists only where `runs_here` is true, by the contract of `new`;
        // `TileShapes` is the 64 bytes that the instruction reads, and `TileShapes::new` makes only
        // shapes of palette 1. All tiles become zero, and are named.
        unsafe {
            asm!(
                "ldtilecfg [{}]", in(reg) shapes,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, readonly),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: a `Tiles` exists only where `runs_here` is true. Without this, the system would
        // save and restore the tiles of a thread that needs them no more.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, nomem),
            );
        }
    }
}
