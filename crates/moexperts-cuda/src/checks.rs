//! Whether shapes and indices agree, before anything is asked of the device.

use moexperts_core::{Error, Result};

use crate::memory::{CudaTensor, CudaVector};

/// Whether `x` is [rows, cols].
pub(crate) fn shape(what: &str, x: &CudaTensor, expected: [usize; 2]) -> Result<()> {
    let got = [x.rows(), x.cols()];
    if got == expected { Ok(()) } else { Err(Error::shape(what, expected, got)) }
}

/// Whether `y` has the shape of `x`.
pub(crate) fn same_shape(what: &str, x: &CudaTensor, y: &CudaTensor) -> Result<()> {
    shape(what, y, [x.rows(), x.cols()])
}

/// Whether all of `indices` are below `limit`.
pub(crate) fn in_range(
    what: &'static str,
    indices: impl IntoIterator<Item = usize>,
    limit: usize,
) -> Result<()> {
    match indices.into_iter().find(|&index| index >= limit) {
        Some(index) => Err(Error::OutOfRange { what, index, limit }),
        None => Ok(()),
    }
}

/// Whether `y` has a row of `x` for each of `rows`.
pub(crate) fn rows_of(x: &CudaTensor, rows: &[usize], y: &CudaTensor) -> Result<()> {
    shape("rows", y, [rows.len(), x.cols()])?;
    in_range("row", rows.iter().copied(), x.rows())
}

/// Whether the rows of `x` are heads as long as the weight.
pub(crate) fn whole_heads(x: &CudaTensor, weight: &CudaVector) -> Result<()> {
    if weight.is_empty() || !x.cols().is_multiple_of(weight.len()) {
        let expected = format!("a multiple of [{}]", weight.len());
        let got = format!("[{}]", x.cols());
        return Err(Error::Shape { what: "row to normalise".into(), expected, got });
    }
    Ok(())
}
