//! The tiles of tiles.cu and simt.cu, and which of them suits a shape.

use moexperts_core::DType;

use super::params::{GroupedParams, ProductShape};
use crate::{
    cuda::Cuda,
    kernels::{self, Kernel},
    tuning::Tuning,
};

/// A kernel that multiplies `rows` rows of weights with `positions` positions in a block.
#[derive(Debug)]
pub(crate) struct Tile {
    /// Whether it uses tensor cores, by `mma`.
    mma: bool,
    rows: usize,
    pub(super) positions: usize,
    pub(super) shared_bytes: usize,
    f32: Option<Kernel<GroupedParams>>,
    f16: Kernel<GroupedParams>,
    bf16: Kernel<GroupedParams>,
}

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

/// Bytes of the sums of a tile, which replace its stages in shared memory in the end. Rows are four
/// values longer than needed: the sums of neighbouring positions begin in different banks.
const fn sums_bytes(rows: usize, positions: usize) -> usize {
    4 * positions * (rows + 4)
}

/// A kernel of tiles.cu: its rows and positions, its stages in flight, and how many warps sum the same
/// outputs. A stage is 64 columns of 16 bits, 128 bytes of each row.
macro_rules! mma_tile {
    ($rows:literal, $positions:literal, $stages:literal, $parts:literal) => {
        Tile {
            mma: true,
            rows: $rows,
            positions: $positions,
            shared_bytes: max(
                $stages * 128 * ($rows + $positions),
                $parts * sums_bytes($rows, $positions),
            ),
            f32: None,
            f16: Kernel::new(&kernels::TILES, concat!("mma_", $rows, "x", $positions, "_f16"), 128),
            bf16: Kernel::new(
                &kernels::TILES,
                concat!("mma_", $rows, "x", $positions, "_bf16"),
                128,
            ),
        }
    };
}

/// A kernel of simt.cu: its rows and positions. A stage is 32 columns of f32 with four more, which keep
/// the rows in different banks.
macro_rules! simt_tile {
    ($rows:literal, $positions:literal) => {
        Tile {
            mma: false,
            rows: $rows,
            positions: $positions,
            shared_bytes: max(4 * 36 * ($rows + $positions), sums_bytes($rows, $positions)),
            f32: Some(Kernel::new(
                &kernels::SIMT,
                concat!("simt_", $rows, "x", $positions, "_f32"),
                256,
            )),
            f16: Kernel::new(&kernels::SIMT, concat!("simt_", $rows, "x", $positions, "_f16"), 256),
            bf16: Kernel::new(
                &kernels::SIMT,
                concat!("simt_", $rows, "x", $positions, "_bf16"),
                256,
            ),
        }
    };
}

/// Every tile; of equally good ones the first is chosen.
static TILES: [Tile; 10] = [
    mma_tile!(128, 128, 3, 1),
    mma_tile!(128, 64, 3, 1),
    mma_tile!(128, 32, 4, 1),
    mma_tile!(128, 16, 4, 1),
    mma_tile!(32, 64, 4, 4),
    mma_tile!(32, 32, 6, 4),
    mma_tile!(32, 16, 8, 4),
    simt_tile!(128, 64),
    simt_tile!(64, 16),
    simt_tile!(32, 16),
];

/// Bytes that memory delivers in a cycle, per multiprocessor: 4.8 TB/s of an H200 over 132 of them at
/// 1.8 GHz.
const BYTES_PER_CYCLE: f64 = 20.0;
/// Multiplications of a multiprocessor in a cycle: its tensor cores through `mma`, and its 128 lanes.
const MMA_PER_CYCLE: f64 = 1024.0;
const SIMT_PER_CYCLE: f64 = 128.0;

impl Tile {
    /// The cheapest tile for a shape, among those that the knobs allow.
    pub(crate) fn choose(cuda: &Cuda, shape: &ProductShape) -> &'static Self {
        let mma = cuda.has_tensor_cores() && shape.dtype != DType::F32;
        let of_kind = || TILES.iter().filter(move |tile| tile.mma == mma);
        let Tuning { tile_rows, tile_positions } = cuda.tuning();
        let wanted = |tile: &&Self| {
            [0, tile.rows].contains(&tile_rows) && [0, tile.positions].contains(&tile_positions)
        };
        let multiprocessors = cuda.properties().multiprocessors as usize;
        let cheaper = |a: &&Self, b: &&Self| {
            a.cost(shape, multiprocessors).total_cmp(&b.cost(shape, multiprocessors))
        };
        let best = of_kind().filter(wanted).min_by(cheaper);
        best.or_else(|| of_kind().min_by(cheaper)).expect("there are tiles of both kinds")
    }

    /// Its name in reports: `mma 128x64`.
    pub(crate) fn name(&self) -> String {
        let Self { mma, rows, positions, .. } = self;
        format!("{} {rows}x{positions}", if *mma { "mma" } else { "simt" })
    }

    pub(super) fn kernel(&self, dtype: DType) -> &Kernel<GroupedParams> {
        match (dtype, &self.f32) {
            (DType::F16, _) => &self.f16,
            (DType::Bf16, _) => &self.bf16,
            (DType::F32, kernel) => kernel.as_ref().expect("`mma` is not chosen for f32"),
        }
    }

    /// Outputs of a tile: where they are gated, each takes two rows.
    pub(super) fn outs(&self, gated: bool) -> usize {
        if gated { self.rows / 2 } else { self.rows }
    }

    /// Cycles that the multiprocessors take for a column of the whole product, roughly.
    ///
    /// A routing divides positions among groups at random, so the last tile of a group is half full on
    /// average; the tiles of a single group are known.
    fn cost(&self, shape: &ProductShape, multiprocessors: usize) -> f64 {
        let groups = shape.groups.min(shape.positions).max(1);
        let tiles_of_group = shape.positions as f64 / (groups * self.positions) as f64;
        let tiles_of_group = match groups {
            1 => tiles_of_group.ceil(),
            _ => (tiles_of_group + 0.5).max(1.0),
        };
        let row_tiles = shape.outs.div_ceil(self.outs(shape.gated));
        let blocks = groups as f64 * tiles_of_group * row_tiles as f64;
        let per_cycle = if self.mma { MMA_PER_CYCLE } else { SIMT_PER_CYCLE };
        // Rows of x come from the second-level cache, twice as fast as weights from memory.
        let bytes =
            shape.dtype.size_bytes() as f64 * (self.rows as f64 + self.positions as f64 / 2.0);
        let block = (bytes / BYTES_PER_CYCLE).max((self.rows * self.positions) as f64 / per_cycle);
        (blocks / multiprocessors as f64).max(1.0) * block
    }
}
