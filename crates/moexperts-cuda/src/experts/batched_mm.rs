//! Every (token, expert) pair on its own.

use bytemuck::NoUninit;
use moexperts_core::{ExpertsBackend, ExpertsCall, ExpertsSpec, Result, checks};

use super::{Sizes, tables::Tables};
use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    elementwise::activation::ActivationParams,
    kernels::{GEMV, PerDType, per_dtype},
    runtime::memory::{Buffer, CudaTensor},
};

/// Each pair is a product of its own that points at its expert's rows: no weights are duplicated.
/// Where there are few pairs, those of one expert read its weights together.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchedMm;

/// `InnerParams` of gemv.cu.
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
struct InnerParams {
    x: DevicePtr,
    top_k_index: DevicePtr,
    weights: DevicePtr,
    inner: DevicePtr,
    pairs: u32,
    top_k: u32,
    experts: u32,
    hidden: u32,
    intermediate: u32,
    vector: u32,
    activation: ActivationParams,
}

/// `OutputParams` of gemv.cu.
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
struct OutputParams {
    inner: DevicePtr,
    top_k_index: DevicePtr,
    top_k_weights: DevicePtr,
    weights: DevicePtr,
    out: DevicePtr,
    tokens: u32,
    top_k: u32,
    experts: u32,
    hidden: u32,
    intermediate: u32,
    vector: u32,
    bundles: u32,
    padding: u32,
}

/// The two kernels of a layer, and what of gemv.cu their grids depend on.
struct Kernels {
    inner: PerDType<InnerParams>,
    /// Weight rows of a warp of it.
    inner_rows: usize,
    output: PerDType<OutputParams>,
    output_warps: usize,
}

const INNER_WARPS: usize = 4;
/// Outputs of a bundle.
const OUTPUT_ROWS: usize = 4;

/// Each pair by itself.
static ALONE: Kernels = Kernels {
    inner: per_dtype!(&GEMV, "gemv_inner_alone", 128),
    inner_rows: 2,
    output: per_dtype!(&GEMV, "gemv_output_alone", 256),
    output_warps: 8,
};

/// Those of an expert together.
static SHARED: Kernels = Kernels {
    inner: per_dtype!(&GEMV, "gemv_inner_shared", 128),
    inner_rows: 4,
    output: per_dtype!(&GEMV, "gemv_output_shared", 128),
    output_warps: 4,
};

/// Pairs that are looked through for those of one expert.
const MOST_SHARED_PAIRS: usize = 64;

/// Room of one caller.
#[derive(Debug, Default)]
struct Room {
    /// What leaves the activation, [T · K, I] in f32.
    inner: Buffer,
}

impl ExpertsBackend<Cuda> for BatchedMm {
    fn name(&self) -> &str {
        "batched_mm"
    }

    fn check(&self, spec: &ExpertsSpec, device: &Cuda) -> Result<()> {
        checks::backend(self.name(), device, spec)
    }

    fn forward(&self, call: ExpertsCall<'_, Cuda>, out: &mut CudaTensor) -> Result<()> {
        super::check_call(self.name(), &call, out)?;
        let ExpertsCall { device: cuda, experts, x, routing, scratch } = call;
        let (spec, sizes) = (experts.spec(), Sizes::new(experts, x, routing));
        let dtype = super::dtype(spec);
        let Tables { gate_up, down } = &*Tables::of(cuda, experts)?;
        let room = scratch.slot::<Room>();
        room.inner.reserve(cuda, 4 * sizes.pairs() * sizes.intermediate)?;

        let is_shared = sizes.tokens > 1 && sizes.pairs() <= MOST_SHARED_PAIRS;
        let kernels = if is_shared { &SHARED } else { &ALONE };
        let outs = if spec.gated { kernels.inner_rows / 2 } else { kernels.inner_rows };
        let parts = sizes.intermediate.div_ceil(INNER_WARPS * outs);
        let inner = InnerParams {
            x: x.ptr(),
            top_k_index: routing.top_k_index(),
            weights: gate_up.from(0),
            inner: room.inner.ptr(),
            pairs: sizes.pairs() as u32,
            top_k: sizes.top_k as u32,
            experts: sizes.experts as u32,
            hidden: sizes.hidden as u32,
            intermediate: sizes.intermediate as u32,
            vector: u32::from(gate_up.aligned && sizes.hidden.is_multiple_of(4)),
            activation: ActivationParams::new(spec.activation, spec.gated),
        };
        cuda.launch(kernels.inner.of(dtype), [sizes.pairs(), parts, 1], 0, inner)?;

        // Warps that have the same outputs divide the pairs; there are no more of them than pairs.
        let pairs = if is_shared { sizes.pairs() } else { sizes.top_k };
        let mut bundles = kernels.output_warps;
        while bundles > 1 && bundles * pairs > kernels.output_warps {
            bundles /= 2;
        }
        let rows = bundles * OUTPUT_ROWS;
        let output = OutputParams {
            inner: room.inner.ptr(),
            top_k_index: routing.top_k_index(),
            top_k_weights: routing.top_k_weights(),
            weights: down.from(0),
            out: out.ptr(),
            tokens: sizes.tokens as u32,
            top_k: sizes.top_k as u32,
            experts: sizes.experts as u32,
            hidden: sizes.hidden as u32,
            intermediate: sizes.intermediate as u32,
            vector: u32::from(down.aligned && sizes.intermediate.is_multiple_of(4)),
            bundles: bundles as u32,
            padding: 0,
        };
        let blocks = if is_shared { 1 } else { sizes.tokens };
        let grid = [blocks, sizes.hidden.div_ceil(rows), 1];
        cuda.launch(kernels.output.of(dtype), grid, 4 * pairs * rows, output)
    }

    fn reads_routing_on_host(&self) -> bool {
        false
    }
}
