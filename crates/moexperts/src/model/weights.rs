//! The tensors of a checkpoint, brought to a device.

use std::{fmt, num::NonZero, panic::resume_unwind, thread};

use moexperts_core::{DType, Device, DeviceKind, DeviceLinear, Linear, Matrix};

use crate::{
    checkpoint::Checkpoint,
    error::Result,
    progress::{Amount, Progress},
};

/// What loading had to do beyond mapping files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Bytes of weights used where the checkpoint has them.
    pub in_place_bytes: usize,
    /// Bytes of weights that were converted to another dtype or layout and are held in memory.
    pub converted_bytes: usize,
}

/// What [`Progress`] calls bringing weights to a device with a memory of its own.
const UPLOAD: &str = "bringing weights to the GPU";

/// Finds tensors in a checkpoint and brings them to a device.
pub struct Weights<'a, D> {
    device: &'a D,
    checkpoint: &'a Checkpoint,
    dtype: Option<DType>,
    progress: &'a dyn Progress,
    report: LoadReport,
}

impl<D: Device> fmt::Debug for Weights<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weights")
            .field("device", &self.device)
            .field("dtype", &self.dtype)
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

impl<'a, D: Device> Weights<'a, D> {
    /// Weights of `checkpoint` for `device`; `dtype` converts matrices, `None` takes them as
    /// stored.
    pub fn new(
        device: &'a D,
        checkpoint: &'a Checkpoint,
        dtype: Option<DType>,
        progress: &'a dyn Progress,
    ) -> Self {
        if Self::UPLOADS {
            let bytes = |(_, shape, stored): (_, &[usize], DType)| {
                shape.iter().product::<usize>() * dtype.unwrap_or(stored).size_bytes()
            };
            let total: usize = checkpoint.tensors().map(bytes).sum();
            progress.start(UPLOAD, Amount::Bytes(total as u64));
        }
        Self { device, checkpoint, dtype, progress, report: LoadReport::default() }
    }

    /// Whether the device's memory is not the host's.
    const UPLOADS: bool = matches!(D::KIND, DeviceKind::Gpu);

    /// Matrices of so many bytes are read, to be brought to the device next.
    fn brings(&self, bytes: usize) {
        if Self::UPLOADS {
            self.progress.advance(UPLOAD, bytes as u64);
        }
    }

    /// All weights are where they belong.
    pub(crate) fn finish(&self) {
        if Self::UPLOADS {
            self.progress.finish(UPLOAD);
        }
    }

    /// Where they go.
    pub fn device(&self) -> &'a D {
        self.device
    }

    /// Who is told of conversions.
    pub(super) fn progress(&self) -> &'a dyn Progress {
        self.progress
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

    /// Bytes of a tensor's elements as they will be used, 0 if there is none of this name.
    pub(super) fn used_bytes(&self, name: &str) -> usize {
        let stored = self.checkpoint.tensors().find(|(tensor, ..)| *tensor == name);
        stored.map_or(0, |(_, shape, dtype)| {
            shape.iter().product::<usize>() * self.dtype.unwrap_or(dtype).size_bytes()
        })
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

    /// A tensor [n, rows, cols] as `n` matrices, still on the host.
    pub(super) fn stack(&mut self, name: &str, shape: [usize; 3]) -> Result<Vec<Matrix>> {
        let stored = self.checkpoint.stack(name, shape)?;
        let matrix = self.convert(stored)?;
        Ok(parts(&matrix, shape[0]))
    }

    /// A tensor [n, cols, rows] as `n` matrices [rows, cols]: copies with their axes exchanged,
    /// made by all threads of the machine.
    pub(super) fn stack_exchanged(
        &mut self,
        name: &str,
        [n, rows, cols]: [usize; 3],
    ) -> Result<Vec<Matrix>> {
        let stored = parts(&self.checkpoint.stack(name, [n, cols, rows])?, n);
        let exchange = |stored: &Matrix| {
            let matrix = stored.transposed()?;
            matrix.to_dtype(self.dtype.unwrap_or(matrix.dtype()))
        };
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let share = n.div_ceil(threads).max(1);
        let exchanged = thread::scope(|scope| {
            let shares: Vec<_> = stored
                .chunks(share)
                .map(|share| scope.spawn(move || share.iter().map(exchange).collect::<Vec<_>>()))
                .collect();
            shares
                .into_iter()
                .flat_map(|share| share.join().unwrap_or_else(|panic| resume_unwind(panic)))
                .collect()
        });
        let exchanged: Result<Vec<Matrix>, moexperts_core::Error> = exchanged;
        let exchanged = exchanged?;
        let bytes = exchanged.iter().map(Matrix::size_bytes).sum();
        self.report.converted_bytes += bytes;
        self.brings(bytes);
        Ok(exchanged)
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
        self.brings(matrix.size_bytes());
        Ok(matrix)
    }
}

/// A matrix cut into `n` of equal height, in place.
fn parts(matrix: &Matrix, n: usize) -> Vec<Matrix> {
    let rows = matrix.rows().checked_div(n).unwrap_or(0);
    (0..n).map(|index| matrix.row_range(index * rows..(index + 1) * rows)).collect()
}
