//! Products of groups of many positions, by what Hopper alone has (hopper.cu).

use bytemuck::{NoUninit, Zeroable};
use moexperts_core::{DType, Result};

use super::params::{GroupWeights, GroupedParams, ProductShape};
use crate::{
    cuda::Cuda,
    driver::{DevicePtr, TensorMap, TensorMapSpec},
    kernels::{self, Kernel},
    runtime::buffer::CudaBuffer,
    tuning::Tuning,
};

/// `HopperParams` of hopper.cu.
#[derive(Debug, Clone, Copy, NoUninit, Zeroable)]
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

/// The name of the kernel in reports.
pub(crate) const NAME: &str = "wgmma 256x128";

/// Positions and rows of weights of a tile, and rows of a box, as in hopper.cu.
const TILE_POSITIONS: usize = 128;
const TILE_ROWS: usize = 256;
const BOX_ROWS: usize = 128;

/// Positions of a group, on average, from which such tiles pay off. With fewer, most of a
/// tile's 128 positions are empty; the tiles of tiles.cu begin at 16.
const LEAST_POSITIONS: usize = 48;

/// Bytes of shared memory: a ring of four stages, each 128 bytes of every row with two barriers, then
/// the number of tiles before each group.
const fn shared_bytes(groups: usize) -> usize {
    4 * (128 * (TILE_POSITIONS + TILE_ROWS) + 16) + 4 * (groups + 1)
}

/// Number of tiles of a shape, at most.
fn tiles(shape: &ProductShape) -> usize {
    let ProductShape { groups, positions, outs, gated, .. } = *shape;
    if positions == 0 {
        return 0;
    }
    // Where every group has a position, the others fill as many tiles as they can.
    let groups = groups.min(positions);
    let position_tiles = (positions - groups) / TILE_POSITIONS + groups;
    position_tiles * outs.div_ceil(if gated { TILE_ROWS / 2 } else { TILE_ROWS })
}

/// Whether this kernel is the fastest for a shape, if rows begin at multiples of 16 bytes.
pub(crate) fn suits(cuda: &Cuda, shape: &ProductShape) -> bool {
    cuda.is_hopper()
        && cuda.tuning() == Tuning::default()
        && shape.dtype != DType::F32
        && shape.positions >= LEAST_POSITIONS * shape.groups
        // A tile occupies one multiprocessor: if less than half of them had one, smaller tiles would
        // use more of the GPU.
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

/// Launches the kernel with as many blocks as have work.
///
/// # Safety
/// As [`multiply`](super::grouped::multiply), with `vector` set. `map` or `maps` describe the weights of
/// all groups of `params`.
unsafe fn launch(cuda: &Cuda, dtype: DType, params: HopperParams, positions: usize) -> Result<()> {
    let shape = params.grouped.shape(dtype, positions);
    let blocks = tiles(&shape).min(cuda.properties().multiprocessors as usize);
    let kernel = if dtype == DType::Bf16 { &BF16 } else { &F16 };
    // SAFETY: both kernels take a `HopperParams` and access what grouped.cuh says of it, which the
    // caller promises is there; `shared_bytes` is the memory of their ring and tables.
    unsafe { cuda.launch(kernel, [blocks, 1, 1], shared_bytes(shape.groups), params) }
}

/// Multiplies with the only group of `params`.
///
/// - `positions`: its positions at most
///
/// # Errors
/// If the kernel cannot be compiled, or the device refuses.
///
/// # Safety
/// As [`multiply`](super::grouped::multiply), with `vector` set and one group in `only`.
pub(crate) unsafe fn multiply_only(
    cuda: &Cuda,
    dtype: DType,
    params: GroupedParams,
    positions: usize,
) -> Result<()> {
    let GroupWeights { first, first_stride, .. } = params.only;
    let shape = [params.outs, params.depth].map(|n| n as usize);
    let map = map(cuda, dtype, shape, first, first_stride)?;
    let params = HopperParams { grouped: params, map, ..HopperParams::zeroed() };
    // SAFETY: the caller's promise; the map was made from the only group.
    unsafe { launch(cuda, dtype, params, positions) }
}

/// How the weights of some groups are read: a `TensorMap` [groups, 2] of the first and the second.
#[derive(Debug)]
pub(crate) struct Maps(CudaBuffer);

impl Maps {
    /// Describes the weights [outs, depth] of some groups; `None` if the GPU is no Hopper, or these
    /// weights cannot be read so.
    ///
    /// # Errors
    /// If the device has not enough memory.
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
            maps.push(match group.second.is_null() {
                true => first,
                false => map(cuda, dtype, shape, group.second, group.second_stride)?,
            });
        }
        Ok(Some(Self(CudaBuffer::with_values(cuda, maps.as_flattened())?)))
    }

    /// Bytes of memory that the maps take.
    pub(crate) fn size_bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Multiplies with all groups.
    ///
    /// - `positions`: positions of all groups together, at most
    ///
    /// # Errors
    /// If the kernel cannot be compiled, or the device refuses.
    ///
    /// # Safety
    /// As [`multiply`](super::grouped::multiply), with `vector` set; the groups of `params` are those
    /// that the maps were made from.
    pub(crate) unsafe fn multiply(
        &self,
        cuda: &Cuda,
        dtype: DType,
        params: GroupedParams,
        positions: usize,
    ) -> Result<()> {
        let maps = self.0.ptr(cuda);
        let params = HopperParams { grouped: params, maps, ..HopperParams::zeroed() };
        // SAFETY: the caller's promise.
        unsafe { launch(cuda, dtype, params, positions) }
    }
}
