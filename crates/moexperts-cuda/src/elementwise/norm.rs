//! Norms over rows.

use bytemuck::NoUninit;
use moexperts_core::{Result, checks};

use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    kernels::{Kernel, NORM},
    runtime::memory::{CudaTensor, CudaVector},
};

/// The widest row that one warp computes: 16 values of each lane. A whole block would spend more time
/// waiting for its warps than it saves.
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
        x: x.ptr(cuda),
        added: added.map_or(DevicePtr::NULL, |(added, _)| added.ptr(cuda)),
        weight: weight.ptr(cuda),
        bias: DevicePtr::NULL,
        out: out.ptr(cuda),
        rows: rows as u64,
        width: weight.len() as u32,
        eps,
        scale: added.map_or(1.0, |(_, scale)| scale),
        padding: 0,
    };
    let (kernel, blocks) = if weight.len() <= NARROW {
        let rows_of_block = RMS_NORM_NARROW.threads as usize / 32;
        (&RMS_NORM_NARROW, rows.div_ceil(rows_of_block))
    } else {
        (&RMS_NORM_WIDE, rows)
    };
    // SAFETY: both kernels take a `NormParams`. `checks` found that x is `rows` rows as wide as the
    // weight, and that `added` has x's shape; `out` was given it.
    unsafe { cuda.launch(kernel, [blocks, 1, 1], 0, params) }
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
        x: x.ptr(cuda),
        added: DevicePtr::NULL,
        weight: weight.ptr(cuda),
        bias: bias.ptr(cuda),
        out: out.ptr(cuda),
        rows: x.rows() as u64,
        width: x.cols() as u32,
        eps,
        scale: 1.0,
        padding: 0,
    };
    // SAFETY: `layer_norm` takes a `NormParams`. `checks::layer_norm` found that weight and bias are as
    // wide as a row of x, one for each block; `out` was given x's shape.
    unsafe { cuda.launch(&LAYER_NORM, [x.rows(), 1, 1], 0, params) }
}
