//! The tensors of a checkpoint, brought to a device.

use moexperts_core::{DType, Device, DeviceLinear, Linear, Matrix};

use crate::{
    checkpoint::Checkpoint,
    error::{Error, Result},
};

/// What loading had to do beyond mapping files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Bytes of weights used where the checkpoint has them.
    pub in_place_bytes: usize,
    /// Bytes of weights that were converted to another dtype or layout and are held in memory.
    pub converted_bytes: usize,
}

/// Finds tensors in a checkpoint and brings them to a device.
#[derive(Debug)]
pub struct Weights<'a, D> {
    device: &'a D,
    checkpoint: &'a Checkpoint,
    dtype: Option<DType>,
    report: LoadReport,
}

impl<'a, D: Device> Weights<'a, D> {
    /// Weights of `checkpoint` for `device`; `dtype` converts matrices, `None` takes them as
    /// stored.
    pub fn new(device: &'a D, checkpoint: &'a Checkpoint, dtype: Option<DType>) -> Self {
        Self { device, checkpoint, dtype, report: LoadReport::default() }
    }

    /// Where they go.
    pub fn device(&self) -> &'a D {
        self.device
    }

    /// What was read so far.
    pub fn report(&self) -> LoadReport {
        self.report
    }

    /// Whether there is a tensor of this name.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.checkpoint.contains(name)
    }

    /// The shape of a tensor, if there is one of this name.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.checkpoint.shape(name)
    }

    /// `{name}.weight` [out, in] and, if asked for, `{name}.bias` `[out]`.
    pub(super) fn linear(
        &mut self,
        name: &str,
        shape: [usize; 2],
        bias: bool,
    ) -> Result<DeviceLinear<D>> {
        let weight = self.matrix(&format!("{name}.weight"), shape)?;
        let bias = match bias {
            true => Some(self.vector(&format!("{name}.bias"), shape[0])?),
            false => None,
        };
        self.bring(weight, bias)
    }

    /// A linear layer of parts that were read.
    pub(super) fn bring(&self, weight: Matrix, bias: Option<D::Vector>) -> Result<DeviceLinear<D>> {
        Ok(Linear { weight: self.device.load_matrix(weight)?, bias })
    }

    /// A tensor `[len]` in f32.
    pub(super) fn vector(&self, name: &str, len: usize) -> Result<D::Vector> {
        Ok(self.device.load_vector(self.host_vector(name, len)?)?)
    }

    /// A tensor `[len]` in f32, still on the host.
    pub(super) fn host_vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.checkpoint.vector(name, len)
    }

    /// A tensor [rows, cols], still on the host.
    pub(super) fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Matrix> {
        let stored = self.checkpoint.matrix(name, shape)?;
        self.convert(stored)
    }

    /// A tensor [n, rows, cols] as [n · rows, cols], still on the host.
    pub(super) fn stack(&mut self, name: &str, shape: [usize; 3]) -> Result<Matrix> {
        let stored = self.checkpoint.stack(name, shape)?;
        self.convert(stored)
    }

    /// A tensor [n, cols, rows] as [n · rows, cols], each of the `n` with its axes exchanged.
    pub(super) fn stack_exchanged(
        &mut self,
        name: &str,
        [n, rows, cols]: [usize; 3],
    ) -> Result<Matrix> {
        let stored = self.checkpoint.stack(name, [n, cols, rows])?;
        let refused = |source| Error::from(source);
        let matrix = stored.exchanged(n).map_err(refused)?;
        let matrix = matrix.to_dtype(self.dtype.unwrap_or(matrix.dtype())).map_err(refused)?;
        self.report.converted_bytes += matrix.size_bytes();
        Ok(matrix)
    }

    /// A tensor of filters [out, …] as [out, values of a filter], still on the host.
    pub(super) fn filters(&mut self, name: &str, shape: &[usize]) -> Result<Matrix> {
        let stored = self.checkpoint.filters(name, shape)?;
        self.convert(stored)
    }

    fn convert(&mut self, stored: Matrix) -> Result<Matrix> {
        let dtype = self.dtype.unwrap_or(stored.dtype());
        let matrix = stored.to_dtype(dtype)?;
        if dtype == stored.dtype() {
            self.report.in_place_bytes += matrix.size_bytes();
        } else {
            self.report.converted_bytes += matrix.size_bytes();
        }
        Ok(matrix)
    }
}
