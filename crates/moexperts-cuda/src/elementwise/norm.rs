//! Norms over rows.

use bytemuck::NoUninit;
use moexperts_core::{Result, checks};

use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    kernels::{Kernel, NORM},
    runtime::memory::{CudaTensor, CudaVector},
};

/// Up to here, a warp has a row for itself.
const NARROW: usize = 512;

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct NormParams {
    x: DevicePtr,
    added: DevicePtr,
    weight: DevicePtr,
    bias: DevicePtr,
    out: DevicePtr,
    rows: u64,
    width: u32,
    eps: f32,
    scale: f32,
    padding: u32,
}

static RMS_NORM_NARROW: Kernel<NormParams> = Kernel::new(&NORM, "rms_norm_narrow", 256);
static RMS_NORM_WIDE: Kernel<NormParams> = Kernel::new(&NORM, "rms_norm_wide", 512);
static LAYER_NORM: Kernel<NormParams> = Kernel::new(&NORM, "layer_norm", 512);

/// `x += scale · y` for an `added` (y, scale), if there is one; the norm of each head of `x`.
pub(crate) fn rms_norm(
    cuda: &Cuda,
    x: &CudaTensor,
    added: Option<(&CudaTensor, f32)>,
    weight: &CudaVector,
    eps: f32,
    out: &mut CudaTensor,
) -> Result<()> {
    if let Some((added, _)) = added {
        checks::shape("summand", added.shape(), x.shape())?;
    }
    checks::rms_norm(x.shape(), weight.len())?;
    out.reset(cuda, x.rows(), x.cols())?;
    let rows = x.len() / weight.len();
    let params = NormParams {
        x: x.ptr(),
        added: added.map_or(DevicePtr(0), |(added, _)| added.ptr()),
        weight: weight.ptr(),
        bias: DevicePtr(0),
        out: out.ptr(),
        rows: rows as u64,
        width: weight.len() as u32,
        eps,
        scale: added.map_or(1.0, |(_, scale)| scale),
        padding: 0,
    };
    if weight.len() <= NARROW {
        let rows_of_block = RMS_NORM_NARROW.threads as usize / 32;
        cuda.launch(&RMS_NORM_NARROW, [rows.div_ceil(rows_of_block), 1, 1], 0, params)
    } else {
        cuda.launch(&RMS_NORM_WIDE, [rows, 1, 1], 0, params)
    }
}

pub(crate) fn layer_norm(
    cuda: &Cuda,
    x: &CudaTensor,
    [weight, bias]: [&CudaVector; 2],
    eps: f32,
    out: &mut CudaTensor,
) -> Result<()> {
    checks::layer_norm(x.shape(), weight.len(), bias.len())?;
    out.reset(cuda, x.rows(), x.cols())?;
    if x.is_empty() {
        return Ok(());
    }
    let params = NormParams {
        x: x.ptr(),
        added: DevicePtr(0),
        weight: weight.ptr(),
        bias: bias.ptr(),
        out: out.ptr(),
        rows: x.rows() as u64,
        width: x.cols() as u32,
        eps,
        scale: 1.0,
        padding: 0,
    };
    cuda.launch(&LAYER_NORM, [x.rows(), 1, 1], 0, params)
}
