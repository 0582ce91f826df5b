//! Grouped products, by the kernel that suits their shape (grouped.cuh): experts, and dense layers as
//! one group.

use std::mem::size_of;

use moexperts_core::{DType, Result};

use super::{
    hopper::{self, Maps},
    params::{GroupWeights, GroupedParams, ProductShape},
    tiles::Tile,
};
use crate::{cuda::Cuda, driver::DevicePtr, runtime::buffer::CudaBuffer};

/// The weights of some groups, [outs, depth] each, as kernels find them.
#[derive(Debug)]
pub(crate) struct Groups {
    /// `GroupWeights` [count].
    table: CudaBuffer,
    /// How Hopper reads the weights.
    maps: Option<Maps>,
    /// Number of groups.
    pub(crate) count: usize,
    pub(crate) outs: usize,
    pub(crate) depth: usize,
    pub(crate) dtype: DType,
    /// Whether all rows begin at multiples of 16 bytes.
    pub(crate) aligned: bool,
}

impl Groups {
    /// Describes weights [outs, depth] that all have one type.
    ///
    /// # Errors
    /// If the device has not enough memory.
    pub(crate) fn new(
        cuda: &Cuda,
        dtype: DType,
        [outs, depth]: [usize; 2],
        weights: &[GroupWeights],
    ) -> Result<Self> {
        let table = CudaBuffer::with_values(cuda, weights)?;
        let maps = Maps::new(cuda, dtype, [outs, depth], weights)?;
        let aligned = weights.iter().all(|weights| weights.aligned(dtype));
        Ok(Self { table, maps, count: weights.len(), outs, depth, dtype, aligned })
    }

    /// `GroupWeights` of the groups from `first` on.
    pub(crate) fn from(&self, cuda: &Cuda, first: usize) -> DevicePtr {
        self.table.ptr(cuda).offset(first * size_of::<GroupWeights>())
    }

    /// Bytes of memory that the descriptions take.
    pub(crate) fn size_bytes(&self) -> usize {
        self.table.bytes() + self.maps.as_ref().map_or(0, Maps::size_bytes)
    }

    /// Multiplies as [`multiply`], with all groups or some of them.
    ///
    /// # Errors
    /// As [`multiply`].
    ///
    /// # Safety
    /// As [`multiply`]; the weights of `params` are those of [`from`](Self::from), as many as its groups.
    pub(crate) unsafe fn multiply(
        &self,
        cuda: &Cuda,
        params: GroupedParams,
        positions: usize,
    ) -> Result<()> {
        let is_whole = params.groups as usize == self.count && params.vector != 0;
        match &self.maps {
            Some(maps) if is_whole && hopper::suits(cuda, &params.shape(self.dtype, positions)) => {
                // SAFETY: the caller's promise; `params` has all groups, whose maps these are.
                unsafe { maps.multiply(cuda, self.dtype, params, positions) }
            }
            // SAFETY: the caller's promise.
            _ => unsafe { multiply(cuda, self.dtype, params, positions) },
        }
    }
}

/// Multiplies as grouped.cuh describes.
///
/// - `dtype`: the type of the weights
/// - `positions`: positions of all groups together, at most
///
/// # Errors
/// If the kernel cannot be compiled, or the device refuses.
///
/// # Safety
/// The pointers of `params` are to allocated memory of this GPU, in the shapes and types that
/// grouped.cuh gives with `dtype` and the counts of `params`; null where it allows that. Offsets ascend
/// and end at `positions` at most; `x_rows` and `out_rows` name rows of `x` and `out`. Where `vector` is
/// set, rows of x and of the weights begin at multiples of 16 bytes.
pub(crate) unsafe fn multiply(
    cuda: &Cuda,
    dtype: DType,
    params: GroupedParams,
    positions: usize,
) -> Result<()> {
    let shape = params.shape(dtype, positions);
    let ProductShape { groups, outs, gated, .. } = shape;
    if positions == 0 || groups == 0 || outs == 0 {
        return Ok(());
    }
    let is_only = params.weights.is_null() && params.depth > 0 && params.vector != 0;
    if is_only && hopper::suits(cuda, &shape) {
        // SAFETY: the caller's promise; the one group is aligned, as `vector` is set.
        return unsafe { hopper::multiply_only(cuda, dtype, params, positions) };
    }
    let tile = Tile::choose(cuda, &shape);
    // Where every group has a position, the others fill as many tiles as they can.
    let groups = groups.min(positions);
    let position_tiles = (positions - groups) / tile.positions + groups;
    let blocks = outs.div_ceil(tile.outs(gated)) * position_tiles;
    // SAFETY: kernels of tiles.cu and simt.cu take a `GroupedParams` and access what grouped.cuh says of
    // it, which the caller promises is there; a tile's shared memory is as large as its kernel needs.
    unsafe { cuda.launch(tile.kernel(dtype), [blocks, 1, 1], tile.shared_bytes, params) }
}
