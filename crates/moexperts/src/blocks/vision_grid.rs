//! Where patches stand: their learned and their rotary positions.
//!
//! Patches come frame by frame, in a frame block by block, and in a block of
//! `spatial_merge_size`² row by row, so that a block's patches are neighbours.

use super::vision::VisionSpec;

/// Rows of the position table that a patch takes part of.
pub(crate) const TAPS: usize = 4;

/// Row and column of every patch of a frame [h, w], in the order of the patches.
fn places([h, w]: [usize; 2], merge: usize) -> impl Iterator<Item = [usize; 2]> {
    let block = move |top: usize, left: usize| {
        (0..merge * merge).map(move |at| [top + at / merge, left + at % merge])
    };
    (0..h)
        .step_by(merge)
        .flat_map(move |top| (0..w).step_by(merge).flat_map(move |left| block(top, left)))
}

/// The position table, a square of `position_side`, spread over a grid with its corners at the
/// corners: for every patch, [`TAPS`] rows of the table and their weights.
pub(crate) fn interpolation(spec: &VisionSpec, [t, h, w]: [usize; 3]) -> (Vec<u32>, Vec<f32>) {
    let side = spec.position_side;
    let (mut rows, mut weights) = (Vec::new(), Vec::new());
    for [row, col] in places([h, w], spec.spatial_merge_size) {
        let (vertical, horizontal) = (taps(row, h, side), taps(col, w, side));
        for (row, down) in vertical {
            for (col, right) in horizontal {
                rows.push((row * side + col) as u32);
                weights.push(down * right);
            }
        }
    }
    (rows.repeat(t), weights.repeat(t))
}

/// The two of `side` places around place `index` of `size`, and their weights; in f32 as
/// transformers computes them.
fn taps(index: usize, size: usize, side: usize) -> [(usize, f32); 2] {
    let source = index as f32 * (side - 1) as f32 / (size - 1).max(1) as f32;
    let (below, above) = (source.floor(), source - source.floor());
    let first = (below as usize).min(side - 1);
    [(first, 1.0 - above), ((first + 1).min(side - 1), above)]
}

/// Cosines and sines of every patch: two [t · h · w, head_dim / 2], row-major. The first half of
/// the pairs turns by the patch's row, the second by its column.
pub(crate) fn angles(spec: &VisionSpec, [t, h, w]: [usize; 3]) -> [Vec<f32>; 2] {
    let quarter = spec.hidden_size / spec.heads / 4;
    let exponent = |pair: usize| -(pair as f64) / quarter as f64;
    let inv_freq: Vec<f64> =
        (0..quarter).map(|pair| spec.rope_theta.powf(exponent(pair))).collect();
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    for place in places([h, w], spec.spatial_merge_size) {
        for along in place {
            for freq in &inv_freq {
                let (s, c) = (along as f64 * freq).sin_cos();
                cos.push(c as f32);
                sin.push(s as f32);
            }
        }
    }
    [cos.repeat(t), sin.repeat(t)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_of_a_block_are_neighbours() {
        let order: Vec<[usize; 2]> = places([2, 4], 2).collect();
        let expected = [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]];
        assert_eq!(order, expected);
        assert_eq!(places([3, 2], 1).nth(3), Some([1, 1]));
    }

    #[test]
    fn the_corners_of_the_table_are_the_corners_of_the_grid() {
        assert_eq!(taps(0, 9, 5), [(0, 1.0), (1, 0.0)]);
        assert_eq!(taps(1, 9, 5), [(0, 0.5), (1, 0.5)]);
        assert_eq!(taps(8, 9, 5), [(4, 1.0), (4, 0.0)]);
        assert_eq!(taps(0, 1, 5), [(0, 1.0), (1, 0.0)]);
        assert_eq!(taps(3, 4, 1), [(0, 1.0), (0, 0.0)]);
    }
}
