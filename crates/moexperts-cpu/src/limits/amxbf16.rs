//! AMX-BF16: tiles of sums, thirty-two products of bf16 each.

use half::bf16;

use super::chains::CHAINS;
use crate::amx::{self, ROW_BYTES, ROWS, Shapes, Tiles};

/// Sums of a tile.
const SUMS: usize = ROWS * ROW_BYTES / size_of::<f32>();

/// Values of a tile that is multiplied.
const VALUES: usize = ROWS * ROW_BYTES / size_of::<bf16>();

/// Operations of one step of one chain.
pub(super) const FLOPS: u64 = 2 * (SUMS * ROW_BYTES / size_of::<bf16>()) as u64;

/// Half of the chains, then the others: two tiles of eight are what is multiplied.
///
/// # Safety
/// The process may use AMX-BF16.
pub(super) unsafe fn chains(starts: &[f32; CHAINS], factor: f32, summand: f32, steps: u64) -> f32 {
    let [factors, summands] = [factor, summand].map(|value| [bf16::from_f32(value); VALUES]);
    let mut total = 0.0;
    for starts in starts.chunks_exact(CHAINS / 2) {
        let mut sums = [[0.0; SUMS]; CHAINS / 2];
        for (sums, &start) in sums.iter_mut().zip(starts) {
            sums.fill(start);
        }
        // SAFETY: as the caller owes; the tiles are whole ones, as are the arrays.
        unsafe {
            let _tiles = Tiles::new(&Shapes::new([ROWS; 8]));
            amx::load::<6>(factors.as_ptr().cast(), ROW_BYTES);
            amx::load::<7>(summands.as_ptr().cast(), ROW_BYTES);
            six_tiles(&mut sums, steps);
        }
        total += sums.as_flattened().iter().sum::<f32>();
    }
    total
}

/// Adds the products of the seventh and the eighth tile to six tiles of sums.
///
/// # Safety
/// Eight whole tiles are in use.
unsafe fn six_tiles(sums: &mut [[f32; SUMS]; CHAINS / 2], steps: u64) {
    let [a, b, c, d, e, f] = sums;
    // SAFETY: as the caller owes; an array is as large as a tile.
    unsafe {
        amx::load::<0>(a.as_ptr().cast(), ROW_BYTES);
        amx::load::<1>(b.as_ptr().cast(), ROW_BYTES);
        amx::load::<2>(c.as_ptr().cast(), ROW_BYTES);
        amx::load::<3>(d.as_ptr().cast(), ROW_BYTES);
        amx::load::<4>(e.as_ptr().cast(), ROW_BYTES);
        amx::load::<5>(f.as_ptr().cast(), ROW_BYTES);
        for _ in 0..steps {
            amx::multiply_bf16::<0, 6, 7>();
            amx::multiply_bf16::<1, 6, 7>();
            amx::multiply_bf16::<2, 6, 7>();
            amx::multiply_bf16::<3, 6, 7>();
            amx::multiply_bf16::<4, 6, 7>();
            amx::multiply_bf16::<5, 6, 7>();
        }
        amx::store::<0>(a.as_mut_ptr().cast(), ROW_BYTES);
        amx::store::<1>(b.as_mut_ptr().cast(), ROW_BYTES);
        amx::store::<2>(c.as_mut_ptr().cast(), ROW_BYTES);
        amx::store::<3>(d.as_mut_ptr().cast(), ROW_BYTES);
        amx::store::<4>(e.as_mut_ptr().cast(), ROW_BYTES);
        amx::store::<5>(f.as_mut_ptr().cast(), ROW_BYTES);
    }
}
