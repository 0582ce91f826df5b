//! AMX-BF16: tiles of sums, thirty-two products of bf16 each.

use std::arch::asm;

use half::bf16;

use super::sizes::CHAINS;
use crate::amx::{ROW_BYTES, ROWS, TILE_BYTES, TileShapes, Tiles};

/// Sums of a tile.
const SUMS: usize = TILE_BYTES / size_of::<f32>();

/// Values of a tile that is multiplied.
const VALUES: usize = TILE_BYTES / size_of::<bf16>();

/// Operations of one step of one chain.
pub(super) const FLOPS: u64 = 2 * (SUMS * ROW_BYTES / size_of::<bf16>()) as u64;

/// Half of the chains, then the others: two tiles of eight are what is multiplied.
///
/// # Safety
/// [`amx::runs_here`](crate::amx::runs_here) is true.
pub(super) unsafe fn chains(starts: &[f32; CHAINS], factor: f32, summand: f32, steps: u64) -> f32 {
    const { assert!(CHAINS == 12, "six tiles of sums, twice") };
    let [factors, summands] = [factor, summand].map(|value| [bf16::from_f32(value); VALUES]);
    let mut total = 0.0;
    for starts in starts.chunks_exact(CHAINS / 2) {
        let mut sums = [[0.0; SUMS]; CHAINS / 2];
        for (sums, &start) in sums.iter_mut().zip(starts) {
            sums.fill(start);
        }
        // SAFETY: this function's contract is that AMX may be used; `_tiles` are the only ones of
        // this thread, and all of them whole.
        unsafe {
            let _tiles = Tiles::new(&TileShapes::new([ROWS; 8]));
            six_tiles(&mut sums, [&factors, &summands], steps);
        }
        total += sums.as_flattened().iter().sum::<f32>();
    }
    total
}

/// Adds the products of two tiles to six tiles of sums, `steps` times.
///
/// # Safety
/// Eight whole tiles are configured.
unsafe fn six_tiles(
    sums: &mut [[f32; SUMS]; CHAINS / 2],
    [factors, summands]: [&[bf16; VALUES]; 2],
    steps: u64,
) {
    // SAFETY: the instructions exist where tiles are configured. Each array is as large as a tile,
    // the six of sums lie one after another, and no tile has a value before or after the statement.
    unsafe {
        asm!(
            "tileloadd tmm6, [{factors} + {line}]",
            "tileloadd tmm7, [{summands} + {line}]",
            "tileloadd tmm0, [{sums} + {line}]",
            "tileloadd tmm1, [{sums} + {line} + {TILE}]",
            "tileloadd tmm2, [{sums} + {line} + 2 * {TILE}]",
            "tileloadd tmm3, [{sums} + {line} + 3 * {TILE}]",
            "tileloadd tmm4, [{sums} + {line} + 4 * {TILE}]",
            "tileloadd tmm5, [{sums} + {line} + 5 * {TILE}]",
            "test {steps}, {steps}",
            "jz 3f",
            "2:",
            "tdpbf16ps tmm0, tmm6, tmm7",
            "tdpbf16ps tmm1, tmm6, tmm7",
            "tdpbf16ps tmm2, tmm6, tmm7",
            "tdpbf16ps tmm3, tmm6, tmm7",
            "tdpbf16ps tmm4, tmm6, tmm7",
            "tdpbf16ps tmm5, tmm6, tmm7",
            "dec {steps}",
            "jnz 2b",
            "3:",
            "tilestored [{sums} + {line}], tmm0",
            "tilestored [{sums} + {line} + {TILE}], tmm1",
            "tilestored [{sums} + {line} + 2 * {TILE}], tmm2",
            "tilestored [{sums} + {line} + 3 * {TILE}], tmm3",
            "tilestored [{sums} + {line} + 4 * {TILE}], tmm4",
            "tilestored [{sums} + {line} + 5 * {TILE}], tmm5",
            TILE = const TILE_BYTES,
            line = in(reg) ROW_BYTES,
            factors = in(reg) factors,
            summands = in(reg) summands,
            sums = in(reg) sums,
            steps = inout(reg) steps => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
