//! Products of groups of many rows, by what Hopper alone has (hopper.cu).

use bytemuck::{Pod, Zeroable};
use moexperts_core::{DType, Result};

use crate::{
    cuda::Cuda,
    driver::{DevicePtr, TensorMap, TensorMapSpec},
    grouped::{GroupWeights, GroupedParams},
    kernels::{self, Kernel},
    memory::Buffer,
};

/// `HopperParams` of hopper.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct HopperParams {
    grouped: GroupedParams,
    maps: DevicePtr,
}

const THREADS: u32 = 384;
const F16: Kernel<HopperParams> = Kernel::new(&kernels::HOPPER, "grouped_hopper_f16", THREADS);
const BF16: Kernel<HopperParams> = Kernel::new(&kernels::HOPPER, "grouped_hopper_bf16", THREADS);

/// Positions and rows of weights of a tile, and rows of a box, as in hopper.cu.
const TILE_POSITIONS: usize = 128;
const TILE_ROWS: usize = 256;
const BOX_ROWS: usize = 128;

/// Groups of fewer rows on average are not worth the large tiles.
const LEAST_ROWS: usize = 48;

/// Shared memory: the ring with its barriers, then the tiles before each group.
const fn shared_bytes(groups: usize) -> usize {
    4 * (128 * (TILE_POSITIONS + TILE_ROWS) + 16) + 4 * (groups + 1)
}

/// How the weights of some groups are read: `TensorMap`s [groups, 2], of the first and the second.
#[derive(Debug)]
pub(crate) struct Maps {
    maps: Buffer,
    groups: usize,
    outs: usize,
    depth: usize,
}

impl Maps {
    /// Describes the weights [outs, depth] of some groups; none if the GPU is no Hopper, or these
    /// weights cannot be read so.
    ///
    /// # Errors
    /// If the device has no room.
    pub(crate) fn new(
        cuda: &Cuda,
        dtype: DType,
        [outs, depth]: [usize; 2],
        groups: &[GroupWeights],
    ) -> Result<Option<Self>> {
        let bf16 = match dtype {
            DType::F32 => return Ok(None),
            DType::F16 => false,
            DType::Bf16 => true,
        };
        let aligned = |at: DevicePtr, stride: u64| at.0 % 16 == 0 && stride % 8 == 0;
        if !cuda.is_hopper()
            || [outs, depth, groups.len()].contains(&0)
            || shared_bytes(groups.len()) > cuda.properties().shared_bytes_per_block as usize
            || !groups.iter().all(|group| {
                aligned(group.first, group.first_stride) && aligned(group.second, group.second_stride)
            })
        {
            return Ok(None);
        }
        let map = |at: DevicePtr, stride: u64| -> Result<TensorMap> {
            cuda.driver().tensor_map(TensorMapSpec {
                at,
                rows: outs,
                cols: depth,
                row_bytes: 2 * stride as usize,
                box_rows: BOX_ROWS,
                bf16,
            })
        };
        let mut bytes: Vec<TensorMap> = Vec::with_capacity(2 * groups.len());
        for group in groups {
            let first = map(group.first, group.first_stride)?;
            bytes.push(first);
            bytes.push(match group.second {
                DevicePtr(0) => first,
                second => map(second, group.second_stride)?,
            });
        }
        let mut maps = Buffer::default();
        cuda.upload(bytes.as_flattened(), &mut maps)?;
        Ok(Some(Self { maps, groups: groups.len(), outs, depth }))
    }

    /// Bytes of memory that they take.
    pub(crate) fn size_bytes(&self) -> usize {
        self.maps.bytes()
    }

    /// Whether so many rows in these groups, 16-bit and aligned as `params.vector` says, are better
    /// multiplied so.
    pub(crate) fn suit(&self, params: &GroupedParams, rows: usize) -> bool {
        params.vector != 0 && rows >= LEAST_ROWS * self.groups
    }

    /// Multiplies: `params` as in grouped.cuh, at most `rows` positions in all groups together.
    ///
    /// # Errors
    /// If the kernel cannot be compiled, or the device refuses.
    pub(crate) fn multiply(
        &self,
        cuda: &Cuda,
        dtype: DType,
        params: GroupedParams,
        rows: usize,
    ) -> Result<()> {
        debug_assert_eq!(
            [params.groups, params.outs, params.depth].map(|n| n as usize),
            [self.groups, self.outs, self.depth],
        );
        let outs = if params.is_gated() { TILE_ROWS / 2 } else { TILE_ROWS };
        // A group ends in a tile that may not be full.
        let tiles = (rows / TILE_POSITIONS + self.groups.min(rows)) * self.outs.div_ceil(outs);
        let blocks = tiles.min(cuda.properties().multiprocessors as usize);
        let kernel = if dtype == DType::Bf16 { &BF16 } else { &F16 };
        let params = HopperParams { grouped: params, maps: self.maps.ptr() };
        cuda.launch(kernel, [blocks, 1, 1], shared_bytes(self.groups), params)
    }
}
