//! Operations on each value by itself.

use bytemuck::NoUninit;
use moexperts_core::{Activation, GateFunction, Result, checks};

use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    elementwise::activation::ActivationParams,
    kernels::{ELEMENTWISE, Kernel},
    runtime::memory::CudaTensor,
};

/// Values of a block: its 256 threads have four each, enough loads under way to hide their latency.
pub(crate) const VALUES: usize = 1024;

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct AddParams {
    x: DevicePtr,
    y: DevicePtr,
    len: u64,
    scale: f32,
    padding: u32,
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct ScaleParams {
    x: DevicePtr,
    len: u64,
    factor: f32,
    padding: u32,
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct GateParams {
    x: DevicePtr,
    gate: DevicePtr,
    len: u64,
    width: u32,
    softplus: u32,
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct AddGatedParams {
    x: DevicePtr,
    y: DevicePtr,
    gate: DevicePtr,
    cols: u32,
    padding: u32,
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct ClampParams {
    x: DevicePtr,
    len: u64,
    limit: f32,
    padding: u32,
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct ActivateParams {
    gate: DevicePtr,
    up: DevicePtr,
    len: u64,
    activation: ActivationParams,
}

static ADD: Kernel<AddParams> = Kernel::new(&ELEMENTWISE, "add", 256);
static SCALE: Kernel<ScaleParams> = Kernel::new(&ELEMENTWISE, "scale", 256);
static GATE: Kernel<GateParams> = Kernel::new(&ELEMENTWISE, "gate", 256);
static ADD_GATED: Kernel<AddGatedParams> = Kernel::new(&ELEMENTWISE, "add_gated", 256);
static CLAMP: Kernel<ClampParams> = Kernel::new(&ELEMENTWISE, "clamp", 256);
static ACTIVATE: Kernel<ActivateParams> = Kernel::new(&ELEMENTWISE, "activate_values", 256);

/// Blocks for each value of a tensor.
fn grid(x: &CudaTensor) -> [usize; 3] {
    [x.len().div_ceil(VALUES), 1, 1]
}

pub(crate) fn add(cuda: &Cuda, x: &CudaTensor, y: &CudaTensor, scale: f32) -> Result<()> {
    checks::shape("summand", y.shape(), x.shape())?;
    let params =
        AddParams { x: x.ptr(cuda), y: y.ptr(cuda), len: x.len() as u64, scale, padding: 0 };
    // SAFETY: `add` takes an `AddParams`; x and y have `len` values, as `checks::shape` found.
    unsafe { cuda.launch(&ADD, grid(x), 0, params) }
}

pub(crate) fn scale(cuda: &Cuda, x: &CudaTensor, factor: f32) -> Result<()> {
    let params = ScaleParams { x: x.ptr(cuda), len: x.len() as u64, factor, padding: 0 };
    // SAFETY: `scale` takes a `ScaleParams`; x has `len` values.
    unsafe { cuda.launch(&SCALE, grid(x), 0, params) }
}

pub(crate) fn gate(
    cuda: &Cuda,
    x: &CudaTensor,
    gate: &CudaTensor,
    function: GateFunction,
) -> Result<()> {
    checks::gate(x.shape(), gate.shape())?;
    let params = GateParams {
        x: x.ptr(cuda),
        gate: gate.ptr(cuda),
        len: x.len() as u64,
        width: x.cols().checked_div(gate.cols()).unwrap_or(0).max(1) as u32,
        softplus: u32::from(function == GateFunction::Softplus),
    };
    // SAFETY: `gate` takes a `GateParams`; x has `len` values, and `checks::gate` found a gate for every
    // `width` of them.
    unsafe { cuda.launch(&GATE, grid(x), 0, params) }
}

pub(crate) fn add_gated(
    cuda: &Cuda,
    x: &CudaTensor,
    y: &CudaTensor,
    gate: &CudaTensor,
) -> Result<()> {
    checks::shape("summand", y.shape(), x.shape())?;
    checks::shape("gate", gate.shape(), [x.rows(), 1])?;
    let params = AddGatedParams {
        x: x.ptr(cuda),
        y: y.ptr(cuda),
        gate: gate.ptr(cuda),
        cols: x.cols() as u32,
        padding: 0,
    };
    let grid = [x.rows(), x.cols().div_ceil(VALUES), 1];
    // SAFETY: `add_gated` takes an `AddGatedParams`; x and y have a row of `cols` values for each block
    // of the grid's first axis, and a gate, as `checks::shape` found.
    unsafe { cuda.launch(&ADD_GATED, grid, 0, params) }
}

pub(crate) fn clamp(cuda: &Cuda, x: &CudaTensor, limit: f32) -> Result<()> {
    let params = ClampParams { x: x.ptr(cuda), len: x.len() as u64, limit, padding: 0 };
    // SAFETY: `clamp` takes a `ClampParams`; x has `len` values.
    unsafe { cuda.launch(&CLAMP, grid(x), 0, params) }
}

pub(crate) fn activate(
    cuda: &Cuda,
    activation: Activation,
    gate: Option<&CudaTensor>,
    up: &CudaTensor,
) -> Result<()> {
    checks::activation(cuda, activation)?;
    if let Some(gate) = gate {
        checks::shape("gate", gate.shape(), up.shape())?;
    }
    let params = ActivateParams {
        gate: gate.map_or(DevicePtr::NULL, |gate| gate.ptr(cuda)),
        up: up.ptr(cuda),
        len: up.len() as u64,
        activation: ActivationParams::new(activation, gate.is_some()),
    };
    // SAFETY: `activate_values` takes an `ActivateParams`; up has `len` values, and so has the gate,
    // which is read only if there is one.
    unsafe { cuda.launch(&ACTIVATE, grid(up), 0, params) }
}
