//! From router logits to the experts of each token.

use bytemuck::NoUninit;
use moexperts_core::{Result, RouterSpec, SharedSlices, checks};

use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    kernels::{Kernel, ROUTE as MODULE},
    memory::{CudaRouting, CudaTensor},
};

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct RouteParams {
    logits: DevicePtr,
    gate: DevicePtr,
    top_k_index: DevicePtr,
    top_k_weights: DevicePtr,
    tokens: u32,
    experts: u32,
    top_k: u32,
    slices: u32,
    norm_topk_prob: u32,
    padding: u32,
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct RouteAllParams {
    top_k_index: DevicePtr,
    top_k_weights: DevicePtr,
    tokens: u64,
}

static ROUTE: Kernel<RouteParams> = Kernel::new(&MODULE, "route", 128);
static ROUTE_ALL: Kernel<RouteAllParams> = Kernel::new(&MODULE, "route_all", 256);

/// Softmax over all experts, the K largest in descending order, the lower id first of equals; NaN
/// weights for a token whose logits are not finite.
pub(crate) fn route(
    cuda: &Cuda,
    logits: &CudaTensor,
    spec: &RouterSpec,
    shared: Option<SharedSlices<'_, Cuda>>,
    out: &mut CudaRouting,
) -> Result<()> {
    let (tokens, experts, top_k) = (logits.rows(), logits.cols(), spec.top_k);
    let slices = shared.as_ref().map_or(0, |shared| shared.slices);
    let gate = shared.and_then(|shared| shared.gate);
    checks::route(logits.shape(), spec, gate.map(CudaTensor::shape))?;
    out.reset(cuda, tokens, top_k + slices)?;
    let params = RouteParams {
        logits: logits.ptr(),
        gate: gate.map_or(DevicePtr(0), CudaTensor::ptr),
        top_k_index: out.top_k_index(),
        top_k_weights: out.top_k_weights(),
        tokens: tokens as u32,
        experts: experts as u32,
        top_k: top_k as u32,
        slices: slices as u32,
        norm_topk_prob: u32::from(spec.norm_topk_prob),
        padding: 0,
    };
    // A warp a token.
    let tokens_of_block = ROUTE.threads as usize / 32;
    cuda.launch(&ROUTE, [tokens.div_ceil(tokens_of_block), 1, 1], 0, params)
}

/// Sends each token to expert 0, with weight 1.
pub(crate) fn route_all(cuda: &Cuda, tokens: usize, out: &mut CudaRouting) -> Result<()> {
    out.reset(cuda, tokens, 1)?;
    let params = RouteAllParams {
        top_k_index: out.top_k_index(),
        top_k_weights: out.top_k_weights(),
        tokens: tokens as u64,
    };
    let threads = ROUTE_ALL.threads as usize;
    cuda.launch(&ROUTE_ALL, [tokens.div_ceil(threads), 1, 1], 0, params)
}
