//! Rotary positions.

use bytemuck::NoUninit;
use moexperts_core::{Result, RopePairing, checks};

use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    kernels::{Kernel, ROPE as MODULE},
    runtime::memory::CudaTensor,
};

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct RopeParams {
    x: DevicePtr,
    cos: DevicePtr,
    sin: DevicePtr,
    heads: u32,
    head_dim: u32,
    half: u32,
    stride: u32,
}

static ROPE: Kernel<RopeParams> = Kernel::new(&MODULE, "rope", 256);

pub(crate) fn rope(
    cuda: &Cuda,
    x: &CudaTensor,
    head_dim: usize,
    pairing: RopePairing,
    cos: &CudaTensor,
    sin: &CudaTensor,
) -> Result<()> {
    checks::rope(x.shape(), head_dim, cos.shape(), sin.shape())?;
    let (heads, half) = (x.cols() / head_dim, cos.cols());
    let params = RopeParams {
        x: x.ptr(cuda),
        cos: cos.ptr(cuda),
        sin: sin.ptr(cuda),
        heads: heads as u32,
        head_dim: head_dim as u32,
        half: half as u32,
        stride: match pairing {
            RopePairing::Halves => half as u32,
            RopePairing::Neighbours => 1,
        },
    };
    let threads = ROPE.threads as usize;
    let grid = [x.rows(), (heads * half).div_ceil(threads), 1];
    // SAFETY: `rope` takes a `RopeParams`. `checks::rope` found that a row of x is whole heads, that a
    // head has two values for each of `half` angles, and that cos and sin have a row for each of x's.
    unsafe { cuda.launch(&ROPE, grid, 0, params) }
}
