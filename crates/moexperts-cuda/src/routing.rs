//! From router logits to the experts of each token.

use bytemuck::NoUninit;
use moexperts_core::{ExpertGroups, PickOn, Result, RouteOperands, RouterSpec, Score, checks};

use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    error::problem,
    kernels::{Kernel, ROUTE as MODULE},
    runtime::memory::{CudaRouting, CudaTensor, CudaVector},
};

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct RouteParams {
    logits: DevicePtr,
    pick_bias: DevicePtr,
    per_expert_scale: DevicePtr,
    gate: DevicePtr,
    top_k_index: DevicePtr,
    top_k_weights: DevicePtr,
    tokens: u32,
    experts: u32,
    top_k: u32,
    slices: u32,
    score: u32,
    picks_on_logits: u32,
    normalise: u32,
    eps: f32,
    scale: f32,
    groups: u32,
    keep: u32,
    best: u32,
    masked: f32,
    tokens_per_block: u32,
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct RouteAllParams {
    top_k_index: DevicePtr,
    top_k_weights: DevicePtr,
    tokens: u64,
}

static ROUTE: Kernel<RouteParams> = Kernel::new(&MODULE, "route", 128);
static ROUTE_PICKED: Kernel<RouteParams> = Kernel::new(&MODULE, "route_picked", 128);
static ROUTE_ALL: Kernel<RouteAllParams> = Kernel::new(&MODULE, "route_all", 256);

/// Whether `route` takes a router, as [`Operations::check_router`](moexperts_core::Operations) says: one
/// with a pick bias or groups needs shared memory, which is enough for tens of thousands of experts.
pub(crate) fn check(cuda: &Cuda, spec: &RouterSpec, experts: usize, pick_bias: bool) -> Result<()> {
    checks::router(spec, experts)?;
    score_number(spec)?;
    picks_on_logits(spec)?;
    if is_plain(spec, pick_bias) {
        return Ok(());
    }
    tokens_per_block(cuda, spec, experts).map(drop)
}

/// Whether experts are picked on their logits alone, which needs no shared memory.
fn is_plain(spec: &RouterSpec, pick_bias: bool) -> bool {
    !pick_bias && spec.groups.is_none()
}

/// Chooses the experts of each token and their weights, then the slices of a shared expert. A token has
/// NaN weights if its logits, or the values that its experts are picked on, are not finite.
pub(crate) fn route(
    cuda: &Cuda,
    logits: &CudaTensor,
    spec: &RouterSpec,
    operands: RouteOperands<'_, Cuda>,
    out: &mut CudaRouting,
) -> Result<()> {
    let RouteOperands { pick_bias, per_expert_scale, shared } = operands;
    let (tokens, experts, top_k) = (logits.rows(), logits.cols(), spec.top_k);
    let slices = shared.as_ref().map_or(0, |shared| shared.slices);
    let gate = shared.and_then(|shared| shared.gate);
    let lengths = [pick_bias, per_expert_scale].map(|vector| vector.map(CudaVector::len));
    checks::route(logits.shape(), spec, lengths, gate.map(CudaTensor::shape))?;
    let (score, picks_on_logits) = (score_number(spec)?, picks_on_logits(spec)?);
    // Each token is routed by a warp.
    let (kernel, tokens_per_block, shared_bytes) = if is_plain(spec, pick_bias.is_some()) {
        (&ROUTE, WARPS, 0)
    } else {
        let tokens_per_block = tokens_per_block(cuda, spec, experts)?;
        (&ROUTE_PICKED, tokens_per_block, tokens_per_block * picked_bytes(spec, experts))
    };
    out.reset(cuda, tokens, top_k + slices)?;
    let none = ExpertGroups { count: 0, keep: 0, best: 0, masked: 0.0 };
    let groups = spec.groups.unwrap_or(none);
    let params = RouteParams {
        logits: logits.ptr(cuda),
        pick_bias: CudaVector::ptr_or_null(pick_bias, cuda),
        per_expert_scale: CudaVector::ptr_or_null(per_expert_scale, cuda),
        gate: gate.map_or(DevicePtr::NULL, |gate| gate.ptr(cuda)),
        top_k_index: out.top_k_index(cuda),
        top_k_weights: out.top_k_weights(cuda),
        tokens: tokens as u32,
        experts: experts as u32,
        top_k: top_k as u32,
        slices: slices as u32,
        score,
        picks_on_logits,
        normalise: u32::from(spec.normalise.is_some()),
        eps: spec.normalise.unwrap_or(0.0),
        scale: spec.scale,
        groups: groups.count as u32,
        keep: groups.keep as u32,
        best: groups.best as u32,
        masked: groups.masked,
        tokens_per_block: tokens_per_block as u32,
    };
    let grid = [tokens.div_ceil(tokens_per_block), 1, 1];
    // SAFETY: both kernels take a `RouteParams`. `checks::route` found that the vectors have a value for
    // each expert, that the gate fits, and that there are top_k experts and groups that fit them; `out`
    // was given a place for each choice, and a block the shared memory of its tokens.
    unsafe { cuda.launch(kernel, grid, shared_bytes, params) }
}

/// Warps of a block.
const WARPS: usize = ROUTE.threads as usize / 32;

/// Bytes of shared memory for the values on which the experts and groups of a token are picked.
fn picked_bytes(spec: &RouterSpec, experts: usize) -> usize {
    4 * (experts + spec.groups.map_or(0, |groups| groups.count))
}

/// Tokens of a block, as many as its shared memory allows.
fn tokens_per_block(cuda: &Cuda, spec: &RouterSpec, experts: usize) -> Result<usize> {
    let available = cuda.properties().shared_bytes_per_block as usize;
    match (available / picked_bytes(spec, experts).max(1)).min(WARPS) {
        0 => Err(problem(format!(
            "a router of {experts} experts with a pick bias or groups needs {} bytes of shared \
             memory, there are {available}",
            picked_bytes(spec, experts)
        ))),
        tokens => Ok(tokens),
    }
}

/// The number of a kind of scores in route.cu.
fn score_number(spec: &RouterSpec) -> Result<u32> {
    match spec.score {
        Score::Softmax => Ok(0),
        Score::Sigmoid => Ok(1),
        Score::SqrtSoftplus => Ok(2),
        other => Err(problem(format!("a router cannot have {} scores", other.name()))),
    }
}

fn picks_on_logits(spec: &RouterSpec) -> Result<u32> {
    match spec.pick_on {
        PickOn::Scores => Ok(0),
        PickOn::Logits => Ok(1),
        other => Err(problem(format!("a router cannot have experts picked on {other:?}"))),
    }
}

/// Sends each token to expert 0, with weight 1.
pub(crate) fn route_all(cuda: &Cuda, tokens: usize, out: &mut CudaRouting) -> Result<()> {
    out.reset(cuda, tokens, 1)?;
    let params = RouteAllParams {
        top_k_index: out.top_k_index(cuda),
        top_k_weights: out.top_k_weights(cuda),
        tokens: tokens as u64,
    };
    let threads = ROUTE_ALL.threads as usize;
    // SAFETY: `route_all` takes a `RouteAllParams`; `out` was given one place for each token.
    unsafe { cuda.launch(&ROUTE_ALL, [tokens.div_ceil(threads), 1, 1], 0, params) }
}
