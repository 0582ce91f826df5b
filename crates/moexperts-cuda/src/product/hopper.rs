//! Products of groups of many positions, by what Hopper alone has (hopper.cu).

use bytemuck::{Pod, Zeroable};
use moexperts_core::{DType, Result};

use crate::{
    cuda::Cuda,
    driver::{DevicePtr, TensorMap, TensorMapSpec},
    kernels::{self, Kernel},
    product::grouped::{GroupWeights, GroupedParams, Shape},
    runtime::memory::Buffer,
    tuning::Tuning,
};

/// `HopperParams` of hopper.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct HopperParams {
    grouped: GroupedParams,
    maps: DevicePtr,
    padding: [u64; 3],
    map: TensorMap,
}

const THREADS: u32 = 384;
static F16: Kernel<HopperParams> = Kernel::new(&kernels::HOPPER, "grouped_hopper_f16", THREADS);
static BF16: Kernel<HopperParams> = Kernel::new(&kernels::HOPPER, "grouped_hopper_bf16", THREADS);

/// What reports call it.
pub(crate) const NAME: &str = "wgmma 256x128";

/// Positions and rows of weights of a tile, and rows of a box, as in hopper.cu.
const TILE_POSITIONS: usize = 128;
const TILE_ROWS: usize = 256;
const BOX_ROWS: usize = 128;

/// Groups of fewer positions on average are not worth such tiles.
const LEAST_POSITIONS: usize = 48;

/// Shared memory: the ring with its barriers, then the tiles before each group.
const fn shared_bytes(groups: usize) -> usize {
    4 * (128 * (TILE_POSITIONS + TILE_ROWS) + 16) + 4 * (groups + 1)
}

/// Tiles of a shape at most.
fn tiles(shape: &Shape) -> usize {
    let Shape { groups, positions, outs, gated, .. } = *shape;
    if positions == 0 {
        return 0;
    }
    // Where every group has a position, the others fill as many tiles as they can.
    let groups = groups.min(positions);
    let position_tiles = (positions - groups) / TILE_POSITIONS + groups;
    position_tiles * outs.div_ceil(if gated { TILE_ROWS / 2 } else { TILE_ROWS })
}

/// Whether products of a shape are better done so, their rows beginning at multiples of 16 bytes.
pub(crate) fn suits(cuda: &Cuda, shape: &Shape) -> bool {
    cuda.is_hopper()
        && cuda.tuning() == Tuning::default()
        && shape.dtype != DType::F32
        && shape.positions >= LEAST_POSITIONS * shape.groups
        // A tile keeps one multiprocessor at work; smaller ones leave fewer without.
        && 2 * tiles(shape) > cuda.properties().multiprocessors as usize
}

fn map(
    cuda: &Cuda,
    dtype: DType,
    [rows, cols]: [usize; 2],
    at: DevicePtr,
    stride: u64,
) -> Result<TensorMap> {
    cuda.driver().tensor_map(TensorMapSpec {
        at,
        rows,
        cols,
        row_bytes: 2 * stride as usize,
        box_rows: BOX_ROWS,
        bf16: dtype == DType::Bf16,
    })
}

fn launch(cuda: &Cuda, dtype: DType, params: HopperParams, positions: usize) -> Result<()> {
    let shape = params.grouped.shape(dtype, positions);
    let blocks = tiles(&shape).min(cuda.properties().multiprocessors as usize);
    let kernel = if dtype == DType::Bf16 { &BF16 } else { &F16 };
    cuda.launch(kernel, [blocks, 1, 1], shared_bytes(shape.groups), params)
}

/// Multiplies with the only group of `params`, at most so many positions.
///
/// # Errors
/// If the kernel cannot be compiled, or the device refuses.
pub(crate) fn multiply_only(
    cuda: &Cuda,
    dtype: DType,
    params: GroupedParams,
    positions: usize,
) -> Result<()> {
    let GroupWeights { first, first_stride, .. } = params.only;
    let shape = [params.outs, params.depth].map(|n| n as usize);
    let map = map(cuda, dtype, shape, first, first_stride)?;
    let params = HopperParams { grouped: params, map, ..HopperParams::zeroed() };
    launch(cuda, dtype, params, positions)
}

/// How the weights of some groups are read: `TensorMap`s [groups, 2], of the first and the second.
#[derive(Debug)]
pub(crate) struct Maps(Buffer);

impl Maps {
    /// Describes the weights [outs, depth] of some groups; none if the GPU is no Hopper, or these
    /// weights cannot be read so.
    ///
    /// # Errors
    /// If the device has no room.
    pub(crate) fn new(
        cuda: &Cuda,
        dtype: DType,
        shape: [usize; 2],
        groups: &[GroupWeights],
    ) -> Result<Option<Self>> {
        if !cuda.is_hopper()
            || dtype == DType::F32
            || shape.contains(&0)
            || groups.is_empty()
            || shared_bytes(groups.len()) > cuda.properties().shared_bytes_per_block as usize
            || !groups.iter().all(|group| group.aligned(dtype))
        {
            return Ok(None);
        }
        let mut maps: Vec<TensorMap> = Vec::with_capacity(2 * groups.len());
        for group in groups {
            let first = map(cuda, dtype, shape, group.first, group.first_stride)?;
            maps.push(first);
            maps.push(match group.second {
                DevicePtr(0) => first,
                second => map(cuda, dtype, shape, second, group.second_stride)?,
            });
        }
        let mut buffer = Buffer::default();
        cuda.upload(maps.as_flattened(), &mut buffer)?;
        Ok(Some(Self(buffer)))
    }

    /// Bytes of memory that they take.
    pub(crate) fn size_bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Multiplies with all groups, as `params` says, at most so many positions together.
    ///
    /// # Errors
    /// If the kernel cannot be compiled, or the device refuses.
    pub(crate) fn multiply(
        &self,
        cuda: &Cuda,
        dtype: DType,
        params: GroupedParams,
        positions: usize,
    ) -> Result<()> {
        let params = HopperParams { grouped: params, maps: self.0.ptr(), ..HopperParams::zeroed() };
        launch(cuda, dtype, params, positions)
    }
}
