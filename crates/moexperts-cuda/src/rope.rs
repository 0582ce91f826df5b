//! Rotary positions.

use bytemuck::NoUninit;
use moexperts_core::{Error, Result};

use crate::{
    checks,
    cuda::Cuda,
    driver::DevicePtr,
    kernels::{Kernel, ROPE as MODULE},
    memory::CudaTensor,
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
    padding: u32,
}

static ROPE: Kernel<RopeParams> = Kernel::new(&MODULE, "rope", 256);

pub(crate) fn rope(
    cuda: &Cuda,
    x: &CudaTensor,
    head_dim: usize,
    cos: &CudaTensor,
    sin: &CudaTensor,
) -> Result<()> {
    checks::same_shape("sines", cos, sin)?;
    let half = cos.cols();
    checks::shape("cosines", cos, [x.rows(), half])?;
    if head_dim == 0 || !x.cols().is_multiple_of(head_dim) || 2 * half > head_dim {
        let expected = format!("heads of at least {}", 2 * half);
        let got = format!("[{}] in heads of {head_dim}", x.cols());
        return Err(Error::Shape { what: "row to rotate".into(), expected, got });
    }
    let heads = x.cols() / head_dim;
    let params = RopeParams {
        x: x.ptr(),
        cos: cos.ptr(),
        sin: sin.ptr(),
        heads: heads as u32,
        head_dim: head_dim as u32,
        half: half as u32,
        padding: 0,
    };
    let threads = ROPE.threads as usize;
    cuda.launch(&ROPE, [x.rows(), (heads * half).div_ceil(threads), 1], 0, params)
}
