//! Dense layers: few rows by gemv.cu, whose time is that of reading the weights once; many rows as a
//! grouped product with one group.

use bytemuck::{NoUninit, Pod, Zeroable};
use moexperts_core::{DType, DeviceLinear, Result, Scratch, Weight, checks};

use super::{
    grouped, hopper,
    narrow::Narrowed,
    params::{GroupWeights, GroupedParams, ProductShape},
    tiles::Tile,
};
use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    elementwise::activation::ActivationParams,
    kernels::{GEMV, PerDType, per_dtype},
    runtime::memory::{CudaMatrix, CudaTensor, CudaVector},
};

/// `LinearPart` of gemv.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct LinearPart {
    weight: DevicePtr,
    bias: DevicePtr,
    out: DevicePtr,
    stride: u64,
    outs: u32,
    first_warp: u32,
}

/// Layers in one launch, at most: a parameter block holds them all.
const MOST_PARTS: usize = 4;

/// `LinearParams` of gemv.cu.
#[derive(Debug, Clone, Copy, NoUninit, Zeroable)]
#[repr(C)]
struct LinearParams {
    x: DevicePtr,
    parts: [LinearPart; MOST_PARTS],
    part_count: u32,
    rows: u32,
    depth: u32,
    vector: u32,
}

/// A kernel of gemv.cu.
struct Few {
    /// Rows of x, at most.
    rows: usize,
    /// Outputs of a warp.
    outs: usize,
    kernels: PerDType<LinearParams>,
}

const WARPS: usize = 4;
const THREADS: u32 = 32 * WARPS as u32;

/// By their rows. Two weight rows of a warp hide the latency of its loads; with four rows of x, four of
/// them share each load of x.
static FEW: [Few; 4] = [
    Few { rows: 1, outs: 2, kernels: per_dtype!(&GEMV, "gemv_linear_1", THREADS) },
    Few { rows: 2, outs: 2, kernels: per_dtype!(&GEMV, "gemv_linear_2", THREADS) },
    Few { rows: 4, outs: 4, kernels: per_dtype!(&GEMV, "gemv_linear_4", THREADS) },
    Few { rows: 8, outs: 4, kernels: per_dtype!(&GEMV, "gemv_linear_8", THREADS) },
];

impl Few {
    /// The kernel for a number of rows, if they are few.
    fn of(rows: usize) -> Option<&'static Self> {
        FEW.iter().find(|few| rows <= few.rows)
    }
}

/// What [`many`] computes in.
#[derive(Debug, Default)]
struct LinearScratch {
    x: Narrowed,
}

/// `outs[i] = x · linears[i].weightᵀ + linears[i].bias`.
pub(crate) fn linear(
    cuda: &Cuda,
    x: &CudaTensor,
    linears: &[&DeviceLinear<Cuda>],
    scratch: &mut Scratch,
    outs: &mut [CudaTensor],
) -> Result<()> {
    checks::count("results of linear layers", outs.len(), linears.len())?;
    for (linear, out) in linears.iter().zip(&mut *outs) {
        let weight = [linear.weight.rows(), linear.weight.cols()];
        checks::linear(x.shape(), weight, linear.bias.as_ref().map(CudaVector::len))?;
        out.reset(cuda, x.rows(), linear.weight.rows())?;
    }
    if x.rows() == 0 {
        return Ok(());
    }
    match Few::of(x.rows()) {
        Some(kernel) => few(cuda, kernel, x, linears, outs),
        None => many(cuda, x, linears, scratch, outs),
    }
}

/// The name of the kernel that [`linear`] runs for a number of rows.
pub(crate) fn kernel_name(cuda: &Cuda, weight: &CudaMatrix, rows: usize) -> String {
    let (major, minor) = cuda.properties().compute_capability;
    let shape = shape(weight, rows);
    let form = match Few::of(rows) {
        Some(_) => "gemv".to_owned(),
        None if hopper::suits(cuda, &shape) => hopper::NAME.to_owned(),
        None => Tile::choose(cuda, &shape).name(),
    };
    format!("sm_{major}{minor} {form}")
}

fn shape(weight: &CudaMatrix, rows: usize) -> ProductShape {
    let (outs, dtype) = (weight.rows(), weight.dtype());
    ProductShape { groups: 1, positions: rows, outs, gated: false, dtype }
}

/// A launch takes as many neighbouring layers as have one type and one alignment, and fit.
fn few(
    cuda: &Cuda,
    kernel: &Few,
    x: &CudaTensor,
    linears: &[&DeviceLinear<Cuda>],
    outs: &[CudaTensor],
) -> Result<()> {
    let x_aligned = x.cols().is_multiple_of(4);
    let kind = |linear: &DeviceLinear<Cuda>| {
        let dtype = linear.weight.dtype();
        (dtype, x_aligned && GroupWeights::new(cuda, linear, None).aligned(dtype))
    };
    let mut left = linears.iter().zip(outs).peekable();
    while let Some(&(first, _)) = left.peek() {
        let (dtype, vector) = kind(first);
        let mut params = LinearParams {
            x: x.ptr(cuda),
            parts: [LinearPart::zeroed(); MOST_PARTS],
            part_count: 0,
            rows: x.rows() as u32,
            depth: x.cols() as u32,
            vector: u32::from(vector),
        };
        let mut warps = 0;
        for part in &mut params.parts {
            let alike = |(linear, _): &(&&DeviceLinear<Cuda>, _)| kind(linear) == (dtype, vector);
            let Some((linear, out)) = left.next_if(alike) else { break };
            let weights = GroupWeights::new(cuda, linear, None);
            *part = LinearPart {
                weight: weights.first,
                bias: weights.first_bias,
                out: out.ptr(cuda),
                stride: weights.first_stride,
                outs: out.cols() as u32,
                first_warp: warps as u32,
            };
            params.part_count += 1;
            warps += out.cols().div_ceil(kernel.outs);
        }
        let grid = [warps.div_ceil(WARPS), 1, 1];
        // SAFETY: the kernels take a `LinearParams`. `linear` checked that the parts' weights and biases
        // fit x and that x has no more rows than the kernel takes, and shaped the results; `vector` is
        // set where all rows are aligned.
        unsafe { cuda.launch(kernel.kernels.of(dtype), grid, 0, params) }?;
    }
    Ok(())
}

fn many(
    cuda: &Cuda,
    x: &CudaTensor,
    linears: &[&DeviceLinear<Cuda>],
    scratch: &mut Scratch,
    outs: &[CudaTensor],
) -> Result<()> {
    let LinearScratch { x: narrow_x } = scratch.slot();
    let mut narrowed: Option<DType> = None;
    for (linear, out) in linears.iter().zip(outs) {
        let weight = &linear.weight;
        let dtype = weight.dtype();
        if narrowed != Some(dtype) {
            narrow_x.load(cuda, x, dtype)?;
            narrowed = Some(dtype);
        }
        let only = GroupWeights::new(cuda, linear, None);
        let params = GroupedParams {
            x: narrow_x.ptr(cuda, x),
            x_stride: narrow_x.stride() as u64,
            out: out.ptr(cuda),
            out_stride: out.cols() as u64,
            only,
            groups: 1,
            rows: x.rows() as u32,
            depth: weight.cols() as u32,
            outs: weight.rows() as u32,
            vector: u32::from(narrow_x.aligned() && only.aligned(dtype)),
            out_f32: 1,
            activation: ActivationParams::zeroed(),
            ..GroupedParams::zeroed()
        };
        // SAFETY: one group of x.rows() positions, its x narrowed to the weights' type. `linear` checked
        // that weight and bias fit x, and shaped the result; `vector` is set where all rows are aligned.
        unsafe { grouped::multiply(cuda, dtype, params, x.rows()) }?;
    }
    Ok(())
}
