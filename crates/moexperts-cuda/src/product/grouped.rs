//! Products of the rows of several groups, each with weights of its own (grouped.cuh): experts, and
//! dense layers as one group.

use std::mem::size_of;

use bytemuck::{Pod, Zeroable};
use moexperts_core::{DType, DeviceLinear, Result};

use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    elementwise::activation::ActivationParams,
    kernels::{self, Kernel},
    product::hopper::{self, Maps},
    runtime::memory::{Buffer, CudaVector},
    tuning::Tuning,
};

/// `GroupWeights` of grouped.cuh.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct GroupWeights {
    pub(crate) first: DevicePtr,
    pub(crate) second: DevicePtr,
    pub(crate) first_bias: DevicePtr,
    pub(crate) second_bias: DevicePtr,
    pub(crate) first_stride: u64,
    pub(crate) second_stride: u64,
}

impl GroupWeights {
    pub(crate) fn new(first: &DeviceLinear<Cuda>, second: Option<&DeviceLinear<Cuda>>) -> Self {
        let bias = |linear: &DeviceLinear<Cuda>| {
            linear.bias.as_ref().map_or(DevicePtr(0), CudaVector::ptr)
        };
        Self {
            first: first.weight.ptr(),
            second: second.map_or(DevicePtr(0), |linear| linear.weight.ptr()),
            first_bias: bias(first),
            second_bias: second.map_or(DevicePtr(0), bias),
            first_stride: first.weight.row_stride() as u64,
            second_stride: second.map_or(0, |linear| linear.weight.row_stride() as u64),
        }
    }

    /// Whether all rows begin at multiples of 16 bytes.
    pub(crate) fn aligned(&self, dtype: DType) -> bool {
        let aligned = |at: DevicePtr, stride: u64| {
            at.0.is_multiple_of(16) && (stride * dtype.size_bytes() as u64).is_multiple_of(16)
        };
        aligned(self.first, self.first_stride) && aligned(self.second, self.second_stride)
    }
}

/// `GroupedParams` of grouped.cuh.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct GroupedParams {
    pub(crate) x: DevicePtr,
    pub(crate) offsets: DevicePtr,
    pub(crate) x_rows: DevicePtr,
    pub(crate) out_rows: DevicePtr,
    pub(crate) weights: DevicePtr,
    pub(crate) out: DevicePtr,
    pub(crate) x_stride: u64,
    pub(crate) out_stride: u64,
    pub(crate) only: GroupWeights,
    pub(crate) groups: u32,
    pub(crate) rows: u32,
    pub(crate) depth: u32,
    pub(crate) outs: u32,
    pub(crate) vector: u32,
    pub(crate) out_f32: u32,
    pub(crate) activated: u32,
    pub(crate) padding: u32,
    pub(crate) activation: ActivationParams,
}

impl GroupedParams {
    /// Whether an output is made of two products.
    pub(crate) fn is_gated(&self) -> bool {
        self.activated != 0 && self.activation.is_gated()
    }

    /// With weights of a type, and at most so many positions in all groups together.
    pub(crate) fn shape(&self, dtype: DType, positions: usize) -> Shape {
        let [groups, outs] = [self.groups, self.outs].map(|n| n as usize);
        Shape { groups, positions, outs, gated: self.is_gated(), dtype }
    }
}

/// The weights of some groups, [outs, depth] each, as kernels find them.
#[derive(Debug)]
pub(crate) struct Groups {
    table: Buffer,
    /// How Hopper reads the weights.
    maps: Option<Maps>,
    /// How many.
    pub(crate) count: usize,
    pub(crate) outs: usize,
    pub(crate) depth: usize,
    pub(crate) dtype: DType,
    /// Whether all rows begin at multiples of 16 bytes.
    pub(crate) aligned: bool,
}

impl Groups {
    /// Of weights [outs, depth] that are all of a type.
    ///
    /// # Errors
    /// If the device has no room.
    pub(crate) fn new(
        cuda: &Cuda,
        dtype: DType,
        [outs, depth]: [usize; 2],
        weights: &[GroupWeights],
    ) -> Result<Self> {
        let mut table = Buffer::default();
        cuda.upload(weights, &mut table)?;
        let maps = Maps::new(cuda, dtype, [outs, depth], weights)?;
        let aligned = weights.iter().all(|weights| weights.aligned(dtype));
        Ok(Self { table, maps, count: weights.len(), outs, depth, dtype, aligned })
    }

    /// `GroupWeights` of the groups from `first` on.
    pub(crate) fn from(&self, first: usize) -> DevicePtr {
        self.table.ptr().offset(first * size_of::<GroupWeights>())
    }

    /// Bytes of memory that they take.
    pub(crate) fn size_bytes(&self) -> usize {
        self.table.bytes() + self.maps.as_ref().map_or(0, Maps::size_bytes)
    }

    /// Multiplies as [`multiply`], with all groups or some of them.
    pub(crate) fn multiply(
        &self,
        cuda: &Cuda,
        params: GroupedParams,
        positions: usize,
    ) -> Result<()> {
        let is_whole = params.groups as usize == self.count && params.vector != 0;
        match &self.maps {
            Some(maps) if is_whole && hopper::suits(cuda, &params.shape(self.dtype, positions)) => {
                maps.multiply(cuda, self.dtype, params, positions)
            }
            _ => multiply(cuda, self.dtype, params, positions),
        }
    }
}

/// A kernel that multiplies `rows` rows of weights with `positions` positions in a block.
#[derive(Debug)]
pub(crate) struct Tile {
    /// Whether by tensor cores, in `mma`.
    mma: bool,
    rows: usize,
    positions: usize,
    shared_bytes: usize,
    f32: Option<Kernel<GroupedParams>>,
    f16: Kernel<GroupedParams>,
    bf16: Kernel<GroupedParams>,
}

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

/// Bytes of the sums of a tile, which take the place of its stages in the end.
const fn sums_bytes(rows: usize, positions: usize) -> usize {
    4 * positions * (rows + 4)
}

/// A kernel of tiles.cu, its stages in flight, and how many warps sum the same outputs.
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

/// A kernel of simt.cu.
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

/// Every tile; of equally good ones the first is taken.
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

/// What is multiplied, as far as the choice of a tile depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) groups: usize,
    /// Positions of all groups together, at most.
    pub(crate) positions: usize,
    pub(crate) outs: usize,
    pub(crate) gated: bool,
    pub(crate) dtype: DType,
}

/// Bytes of weights that a multiprocessor's share of the memory's bandwidth brings in a cycle.
const BYTES_PER_CYCLE: f64 = 20.0;
/// Multiplications of a multiprocessor in a cycle.
const MMA_PER_CYCLE: f64 = 1024.0;
const SIMT_PER_CYCLE: f64 = 128.0;

impl Tile {
    /// The best there is on a GPU for a shape.
    pub(crate) fn choose(cuda: &Cuda, shape: &Shape) -> &'static Self {
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

    /// What reports call it: `mma 128x64`.
    pub(crate) fn name(&self) -> String {
        let Self { mma, rows, positions, .. } = self;
        format!("{} {rows}x{positions}", if *mma { "mma" } else { "simt" })
    }

    fn kernel(&self, dtype: DType) -> &Kernel<GroupedParams> {
        match (dtype, &self.f32) {
            (DType::F16, _) => &self.f16,
            (DType::Bf16, _) => &self.bf16,
            (DType::F32, kernel) => kernel.as_ref().expect("`mma` is not chosen for f32"),
        }
    }

    fn outs(&self, gated: bool) -> usize {
        if gated { self.rows / 2 } else { self.rows }
    }

    /// Cycles that the multiprocessors take for a column of everything, roughly.
    ///
    /// Each group whose positions are drawn at random ends in a tile that is half full on average;
    /// those of a single group are known.
    fn cost(&self, shape: &Shape, multiprocessors: usize) -> f64 {
        let groups = shape.groups.min(shape.positions).max(1);
        let tiles_of_group = shape.positions as f64 / (groups * self.positions) as f64;
        let tiles_of_group = match groups {
            1 => tiles_of_group.ceil(),
            _ => (tiles_of_group + 0.5).max(1.0),
        };
        let row_tiles = shape.outs.div_ceil(self.outs(shape.gated));
        let blocks = groups as f64 * tiles_of_group * row_tiles as f64;
        let per_cycle = if self.mma { MMA_PER_CYCLE } else { SIMT_PER_CYCLE };
        // What positions read comes from the second-level cache, twice as fast.
        let bytes =
            shape.dtype.size_bytes() as f64 * (self.rows as f64 + self.positions as f64 / 2.0);
        let block = (bytes / BYTES_PER_CYCLE).max((self.rows * self.positions) as f64 / per_cycle);
        (blocks / multiprocessors as f64).max(1.0) * block
    }
}

/// Multiplies: `params` as in grouped.cuh, with weights of a type, and at most so many positions in
/// all groups together.
///
/// # Errors
/// If the kernel cannot be compiled, or the device refuses.
pub(crate) fn multiply(
    cuda: &Cuda,
    dtype: DType,
    params: GroupedParams,
    positions: usize,
) -> Result<()> {
    let shape = params.shape(dtype, positions);
    let Shape { groups, outs, gated, .. } = shape;
    if positions == 0 || groups == 0 || outs == 0 {
        return Ok(());
    }
    let is_only = params.weights == DevicePtr(0) && params.depth > 0 && params.vector != 0;
    if is_only && hopper::suits(cuda, &shape) {
        return hopper::multiply_only(cuda, dtype, params, positions);
    }
    let tile = Tile::choose(cuda, &shape);
    // Where every group has a position, the others fill as many tiles as they can.
    let groups = groups.min(positions);
    let position_tiles = (positions - groups) / tile.positions + groups;
    let blocks = outs.div_ceil(tile.outs(gated)) * position_tiles;
    cuda.launch(tile.kernel(dtype), [blocks, 1, 1], tile.shared_bytes, params)
}
