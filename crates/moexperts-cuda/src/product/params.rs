//! The arguments of grouped products: products of the rows of several groups, each with separate weights.

use bytemuck::{NoUninit, Zeroable};
use moexperts_core::{DType, DeviceLinear};

use crate::{
    cuda::Cuda, driver::DevicePtr, elementwise::activation::ActivationParams,
    runtime::memory::CudaVector,
};

/// `GroupWeights` of grouped.cuh.
#[derive(Debug, Clone, Copy, NoUninit, Zeroable)]
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
    pub(crate) fn new(
        cuda: &Cuda,
        first: &DeviceLinear<Cuda>,
        second: Option<&DeviceLinear<Cuda>>,
    ) -> Self {
        let bias =
            |linear: &DeviceLinear<Cuda>| CudaVector::ptr_or_null(linear.bias.as_ref(), cuda);
        Self {
            first: first.weight.ptr(cuda),
            second: second.map_or(DevicePtr::NULL, |linear| linear.weight.ptr(cuda)),
            first_bias: bias(first),
            second_bias: second.map_or(DevicePtr::NULL, bias),
            first_stride: first.weight.row_stride() as u64,
            second_stride: second.map_or(0, |linear| linear.weight.row_stride() as u64),
        }
    }

    /// Whether all rows begin at multiples of 16 bytes.
    pub(crate) fn aligned(&self, dtype: DType) -> bool {
        let aligned = |at: DevicePtr, stride: u64| {
            at.address().is_multiple_of(16)
                && (stride * dtype.size_bytes() as u64).is_multiple_of(16)
        };
        aligned(self.first, self.first_stride) && aligned(self.second, self.second_stride)
    }
}

/// `GroupedParams` of grouped.cuh.
#[derive(Debug, Clone, Copy, NoUninit, Zeroable)]
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

    /// The shape of the product.
    ///
    /// - `dtype`: the type of the weights
    /// - `positions`: positions of all groups together, at most
    pub(crate) fn shape(&self, dtype: DType, positions: usize) -> ProductShape {
        let [groups, outs] = [self.groups, self.outs].map(|n| n as usize);
        ProductShape { groups, positions, outs, gated: self.is_gated(), dtype }
    }
}

/// The shape of a grouped product, as far as the choice of a kernel depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProductShape {
    pub(crate) groups: usize,
    /// Positions of all groups together, at most.
    pub(crate) positions: usize,
    pub(crate) outs: usize,
    pub(crate) gated: bool,
    pub(crate) dtype: DType,
}
