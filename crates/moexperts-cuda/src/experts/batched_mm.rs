//! Every (token, expert) pair by itself.

use bytemuck::NoUninit;
use moexperts_core::{DType, ExpertsBackend, ExpertsCall, ExpertsSpec, Result, checks};

use super::{
    call::{Sizes, check_call, dtype},
    tables::Tables,
};
use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    elementwise::activation::ActivationParams,
    kernels::{GEMV, PerDType, per_dtype},
    runtime::{
        buffer::CudaBuffer,
        memory::{CudaRouting, CudaTensor},
    },
};

/// Each pair is a separate product with its expert's rows: no weights are duplicated. Where there are
/// few pairs, those of one expert read its weights together.
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

/// The two kernels of a layer, and the numbers of gemv.cu on which their grids depend.
struct PairKernels {
    inner: PerDType<InnerParams>,
    /// Weight rows of a warp of `inner`.
    inner_rows: usize,
    output: PerDType<OutputParams>,
    output_warps: usize,
}

const INNER_WARPS: usize = 4;
/// Outputs of a bundle.
const OUTPUT_ROWS: usize = 4;

/// Kernels that compute each pair by itself.
static ALONE: PairKernels = PairKernels {
    inner: per_dtype!(&GEMV, "gemv_inner_alone", 128),
    inner_rows: 2,
    output: per_dtype!(&GEMV, "gemv_output_alone", 256),
    output_warps: 8,
};

/// Kernels that compute the pairs of an expert together.
static SHARED: PairKernels = PairKernels {
    inner: per_dtype!(&GEMV, "gemv_inner_shared", 128),
    inner_rows: 4,
    output: per_dtype!(&GEMV, "gemv_output_shared", 128),
    output_warps: 4,
};

/// Pairs that are searched for those of one expert, at most: each warp looks at two per lane.
const MOST_SHARED_PAIRS: usize = 64;

/// What a call computes in.
#[derive(Debug, Default)]
struct BatchedScratch {
    /// Results of the activation, [T · K, I] in f32.
    inner: CudaBuffer,
}

impl ExpertsBackend<Cuda> for BatchedMm {
    fn name(&self) -> &str {
        "batched_mm"
    }

    fn check(&self, spec: &ExpertsSpec, device: &Cuda) -> Result<()> {
        checks::backend(self.name(), device, spec)
    }

    fn forward(&self, call: ExpertsCall<'_, Cuda>, out: &mut CudaTensor) -> Result<()> {
        check_call(self.name(), &call, out)?;
        let ExpertsCall { device: cuda, experts, x, routing, scratch } = call;
        let (spec, sizes) = (experts.spec(), Sizes::new(experts, x, routing));
        let tables = &*Tables::of(cuda, experts)?;
        let BatchedScratch { inner } = scratch.slot();
        inner.reserve(cuda, 4 * sizes.pairs() * sizes.intermediate)?;
        let is_shared = sizes.tokens > 1 && sizes.pairs() <= MOST_SHARED_PAIRS;
        let pairs = Pairs { cuda, sizes, tables, routing, inner: inner.ptr(cuda), is_shared };
        let activation = ActivationParams::new(spec.activation, spec.gated);
        // SAFETY: `check_call` found that x, routing and results have the shapes of these experts, whose
        // weights the tables hold; `inner` was grown to a row for each pair.
        unsafe {
            pairs.first_half(dtype(spec), x, activation)?;
            pairs.second_half(dtype(spec), out)
        }
    }

    fn reads_routing_on_host(&self) -> bool {
        false
    }
}

/// A call, as both halves of the layer need it.
struct Pairs<'a> {
    cuda: &'a Cuda,
    sizes: Sizes,
    tables: &'a Tables,
    routing: &'a CudaRouting,
    inner: DevicePtr,
    is_shared: bool,
}

impl Pairs<'_> {
    fn kernels(&self) -> &'static PairKernels {
        if self.is_shared { &SHARED } else { &ALONE }
    }

    /// The gate and up products with their activation.
    ///
    /// # Safety
    /// x is [T, H] and the routing [T, K] in the sizes of the call, the tables hold weights of `dtype` for
    /// all its experts, and `inner` has memory for [T · K, I] values.
    unsafe fn first_half(
        &self,
        dtype: DType,
        x: &CudaTensor,
        activation: ActivationParams,
    ) -> Result<()> {
        let Self { cuda, sizes, tables: Tables { gate_up, .. }, routing, inner, .. } = *self;
        let kernels = self.kernels();
        let outs = if activation.is_gated() { kernels.inner_rows / 2 } else { kernels.inner_rows };
        let parts = sizes.intermediate.div_ceil(INNER_WARPS * outs);
        let params = InnerParams {
            x: x.ptr(cuda),
            top_k_index: routing.top_k_index(cuda),
            weights: gate_up.from(cuda, 0),
            inner,
            pairs: sizes.pairs() as u32,
            top_k: sizes.top_k as u32,
            experts: sizes.experts as u32,
            hidden: sizes.hidden as u32,
            intermediate: sizes.intermediate as u32,
            vector: u32::from(gate_up.aligned && sizes.hidden.is_multiple_of(4)),
            activation,
        };
        let grid = [sizes.pairs(), parts, 1];
        // SAFETY: the kernels take an `InnerParams` and access the shapes that the caller promises; ids
        // of no expert are left out.
        unsafe { cuda.launch(kernels.inner.of(dtype), grid, 0, params) }
    }

    /// The down product and the weighted sum of each token's pairs.
    ///
    /// # Safety
    /// As [`first_half`](Self::first_half), which was called; `out` is [T, H].
    unsafe fn second_half(&self, dtype: DType, out: &CudaTensor) -> Result<()> {
        let Self { cuda, sizes, tables: Tables { down, .. }, routing, inner, is_shared } = *self;
        let kernels = self.kernels();
        // Warps that have the same outputs divide the pairs; there are no more of them than pairs.
        let pairs = if is_shared { sizes.pairs() } else { sizes.top_k };
        let mut bundles = kernels.output_warps;
        while bundles > 1 && bundles * pairs > kernels.output_warps {
            bundles /= 2;
        }
        let rows = bundles * OUTPUT_ROWS;
        let params = OutputParams {
            inner,
            top_k_index: routing.top_k_index(cuda),
            top_k_weights: routing.top_k_weights(cuda),
            weights: down.from(cuda, 0),
            out: out.ptr(cuda),
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
        // SAFETY: the kernels take an `OutputParams` and access the shapes that the caller promises; the
        // shared memory has a value for each output and pair of a block.
        unsafe { cuda.launch(kernels.output.of(dtype), grid, 4 * pairs * rows, params) }
    }
}
