//! Rows of tables and tensors, gathered and put.

use bytemuck::NoUninit;
use moexperts_core::{Result, Weight, checks};

use super::values::VALUES;
use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    kernels::{Kernel, PerDType, ROWS, per_dtype},
    runtime::memory::{CudaMatrix, CudaTensor},
};

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct EmbedParams {
    table: DevicePtr,
    ids: DevicePtr,
    weights: DevicePtr,
    out: DevicePtr,
    stride: u64,
    cols: u32,
    taps: u32,
}

#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct RowsParams {
    x: DevicePtr,
    y: DevicePtr,
    rows: DevicePtr,
    cols: u32,
    padding: u32,
}

static EMBED: PerDType<EmbedParams> = per_dtype!(&ROWS, "embed", 256);
static SELECT_ROWS: Kernel<RowsParams> = Kernel::new(&ROWS, "select_rows", 256);
static PUT_ROWS: Kernel<RowsParams> = Kernel::new(&ROWS, "put_rows", 256);
static ADD_ROWS: Kernel<RowsParams> = Kernel::new(&ROWS, "add_rows", 256);

/// Blocks for each row.
fn grid(rows: usize, cols: usize) -> [usize; 3] {
    [rows, cols.div_ceil(VALUES), 1]
}

pub(crate) fn embed(
    cuda: &Cuda,
    table: &CudaMatrix,
    ids: &[u32],
    out: &mut CudaTensor,
) -> Result<()> {
    checks::indices("token id", ids.iter().map(|&id| id as usize), table.rows())?;
    out.reset(cuda, ids.len(), table.cols())?;
    let params = EmbedParams {
        table: table.ptr(cuda),
        ids: out.indices.upload(cuda, ids.iter().copied())?,
        weights: DevicePtr::NULL,
        out: out.ptr(cuda),
        stride: table.row_stride() as u64,
        cols: table.cols() as u32,
        taps: 1,
    };
    // SAFETY: the kernels take an `EmbedParams`. `checks::indices` found that each id is a row of the
    // table; `out` was given a row for each id.
    unsafe { cuda.launch(EMBED.of(table.dtype()), grid(ids.len(), table.cols()), 0, params) }
}

pub(crate) fn embedding_bag(
    cuda: &Cuda,
    table: &CudaMatrix,
    rows: &[u32],
    weights: &[f32],
    taps: usize,
    out: &mut CudaTensor,
) -> Result<()> {
    let bags = checks::bags(rows, weights, taps, table.rows())?;
    out.reset(cuda, bags, table.cols())?;
    let both = rows.iter().copied().chain(weights.iter().map(|weight| weight.to_bits()));
    let ids = out.indices.upload(cuda, both)?;
    let params = EmbedParams {
        table: table.ptr(cuda),
        ids,
        weights: ids.offset(4 * rows.len()),
        out: out.ptr(cuda),
        stride: table.row_stride() as u64,
        cols: table.cols() as u32,
        taps: taps as u32,
    };
    // SAFETY: the kernels take an `EmbedParams`. `checks::bags` found `taps` rows of the table and as
    // many weights for each bag; `out` was given a row for each.
    unsafe { cuda.launch(EMBED.of(table.dtype()), grid(bags, table.cols()), 0, params) }
}

pub(crate) fn select(
    cuda: &Cuda,
    x: &CudaTensor,
    rows: &[usize],
    out: &mut CudaTensor,
) -> Result<()> {
    checks::indices("row", rows.iter().copied(), x.rows())?;
    out.reset(cuda, rows.len(), x.cols())?;
    // SAFETY: `rows` are rows of x, as `checks::indices` found; `out` was given a row for each.
    unsafe { move_rows(cuda, &SELECT_ROWS, out, rows, x) }
}

pub(crate) fn put(cuda: &Cuda, x: &mut CudaTensor, rows: &[usize], y: &CudaTensor) -> Result<()> {
    checks::rows_of(x.shape(), rows, y.shape())?;
    // SAFETY: `rows` are rows of x, and y has as many, as `checks::rows_of` found.
    unsafe { move_rows(cuda, &PUT_ROWS, x, rows, y) }
}

pub(crate) fn add(cuda: &Cuda, x: &mut CudaTensor, rows: &[usize], y: &CudaTensor) -> Result<()> {
    checks::rows_of(x.shape(), rows, y.shape())?;
    // SAFETY: `rows` are rows of x, and y has as many, as `checks::rows_of` found.
    unsafe { move_rows(cuda, &ADD_ROWS, x, rows, y) }
}

/// Launches a kernel of rows.cu.
///
/// # Safety
/// The kernel takes a `RowsParams`. x and y are equally wide; one of them has the rows that `rows` names,
/// the other as many as there are names, as the kernel has it.
unsafe fn move_rows(
    cuda: &Cuda,
    kernel: &Kernel<RowsParams>,
    x: &mut CudaTensor,
    rows: &[usize],
    y: &CudaTensor,
) -> Result<()> {
    let params = RowsParams {
        x: x.ptr(cuda),
        y: y.ptr(cuda),
        rows: x.indices.upload(cuda, rows.iter().map(|&row| row as u32))?,
        cols: x.cols() as u32,
        padding: 0,
    };
    // SAFETY: the caller's promise; the names were uploaded just now.
    unsafe { cuda.launch(kernel, grid(rows.len(), x.cols()), 0, params) }
}
