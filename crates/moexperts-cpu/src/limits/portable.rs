//! Plain loops, which the compiler vectorises for the target.

use std::hint::black_box;

use super::sizes::{BLOCK, CHAINS, ROW, STEP};

/// Values of one chain.
const LANES: usize = 4;

/// Operations of one step of one chain.
pub(super) const FLOPS: u64 = 2 * LANES as u64;

/// A multiplication and an addition, each rounded, as the portable products do them.
pub(super) fn chains(starts: &[f32; CHAINS], factor: f32, summand: f32, steps: u64) -> f32 {
    // Opaque before and after, or the compiler sees equal lanes and shuffles them about.
    let mut sums = black_box(starts.map(|start| [start; LANES]));
    for _ in 0..steps {
        for sum in &mut sums {
            for lane in sum {
                *lane = *lane * factor + summand;
            }
        }
    }
    black_box(sums).iter().flatten().sum()
}

/// Reads a block from its first value to its last; the exclusive or of all.
#[inline(always)]
pub(super) fn one_stream(block: &[u64; BLOCK]) -> u64 {
    let mut sums = [0; STEP];
    for values in block.as_chunks::<STEP>().0 {
        for lane in 0..STEP {
            sums[lane] ^= values[lane];
        }
    }
    sums.iter().fold(0, |sum, lane| sum ^ lane)
}

/// Reads a block four rows at a time; the exclusive or of all values.
#[inline(always)]
pub(super) fn four_streams(block: &[u64; BLOCK]) -> u64 {
    let mut sums = [0; STEP];
    for rows in block.as_chunks::<ROW>().0.as_chunks::<4>().0 {
        for start in (0..ROW).step_by(STEP) {
            for row in rows {
                for lane in 0..STEP {
                    sums[lane] ^= row[start + lane];
                }
            }
        }
    }
    sums.iter().fold(0, |sum, lane| sum ^ lane)
}
