//! The weights of a model: the inventory of its tensors, and those tensors brought to a device.

mod inventory;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    num::NonZero,
    panic::resume_unwind,
    sync::Arc,
    thread,
};

use moexperts_core::{DType, Device, DeviceKind, DeviceLinear, Linear, Matrix};

pub(crate) use self::inventory::Tensors;
use self::inventory::name_of;
pub use self::inventory::{AsPublished, Orientation, Share, Stored, TensorKind, TensorSpec};
use crate::{
    checkpoint::Checkpoint,
    error::{Error, Result},
    progress::{Amount, Progress},
    warnings::Warnings,
};

/// What loading had to do beyond mapping files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadReport {
    /// Bytes of weights used where the checkpoint has them.
    pub in_place_bytes: usize,
    /// Bytes of weights that were converted to another dtype or layout and are held in memory.
    pub converted_bytes: usize,
    /// What is done differently from what the files say.
    pub warnings: Warnings,
}

/// What [`Progress`] calls bringing weights to a device whose memory is not the host's.
const UPLOAD: &str = "bringing weights to the GPU";

/// What [`Progress`] calls exchanging the axes of experts stored `[in, out]`.
const CONVERSION: &str = "converting the experts";

/// The tensors of an inventory, found in a checkpoint and brought to a device as blocks take them.
pub struct Weights<'a, D> {
    device: &'a D,
    checkpoint: &'a Checkpoint,
    inventory: HashMap<String, TensorSpec>,
    dtype: Option<DType>,
    progress: &'a dyn Progress,
    report: LoadReport,
    /// Bytes of tensors stored `[in, out]`, as they will be used.
    conversion: u64,
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

impl Stored for Checkpoint {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        Self::shape(self, name)
    }
}

impl<'a, D: Device> Weights<'a, D> {
    /// - `inventory`: the tensors of the model
    /// - `dtype`: what matrices are converted to; `None` takes them as stored
    pub fn new(
        device: &'a D,
        checkpoint: &'a Checkpoint,
        inventory: Vec<TensorSpec>,
        dtype: Option<DType>,
        progress: &'a dyn Progress,
    ) -> Self {
        let bytes = |tensor: &TensorSpec| {
            let first = name_of(&tensor.name, tensor.experts.map(|_| 0));
            let stored = checkpoint.dtype(&first).unwrap_or(DType::F32);
            let bytes = dtype.unwrap_or(stored).size_bytes() as u128;
            u64::try_from(tensor.elements().saturating_mul(bytes)).unwrap_or(u64::MAX)
        };
        let sum = |counted: &dyn Fn(&TensorSpec) -> bool| -> u64 {
            let counted = inventory.iter().filter(|tensor| counted(tensor));
            counted.map(bytes).fold(0, u64::saturating_add)
        };
        if Self::UPLOADS {
            progress.start(UPLOAD, Amount::Bytes(sum(&TensorSpec::is_weight)));
        }
        let conversion = sum(&|tensor| tensor.orientation == Orientation::InOut);
        if conversion > 0 {
            tracing::info!(bytes = conversion, "converting experts stored [in, out]");
            progress.start(CONVERSION, Amount::Bytes(conversion));
        }
        let inventory = inventory.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        let report = LoadReport::default();
        Self { device, checkpoint, inventory, dtype, progress, report, conversion }
    }

    /// Whether the device's memory is not the host's.
    const UPLOADS: bool = matches!(D::KIND, DeviceKind::Gpu);

    /// Counts bytes that are read, to be brought to the device next.
    fn uploads(&self, bytes: usize) {
        if Self::UPLOADS {
            self.progress.advance(UPLOAD, bytes as u64);
        }
    }

    /// Says that all weights are where they belong.
    pub(crate) fn finish(&self) {
        if Self::UPLOADS {
            self.progress.finish(UPLOAD);
        }
        if self.conversion > 0 {
            self.progress.finish(CONVERSION);
        }
    }

    /// Where they go.
    pub fn device(&self) -> &'a D {
        self.device
    }

    /// What was read so far.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// Whether the checkpoint has a tensor of this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.checkpoint.contains(name)
    }

    /// The shape of a tensor of the inventory.
    fn shape(&self, name: &str) -> Result<&[usize]> {
        match self.inventory.get(name) {
            Some(tensor) => Ok(&tensor.shape),
            None => Err(Error::Checkpoint {
                file: name.to_owned(),
                problem: "a block takes it and does not list it".to_owned(),
            }),
        }
    }

    /// A shape of the inventory with N axes.
    fn sizes<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let shape = self.shape(name)?;
        shape.try_into().map_err(|_| Error::Checkpoint {
            file: name.to_owned(),
            problem: format!("is listed as {shape:?}, expected {N} axes"),
        })
    }

    /// `{name}.weight` [out, in] and, if the inventory has one, `{name}.bias` `[out]`.
    pub(crate) fn linear(&mut self, name: &str) -> Result<Arc<DeviceLinear<D>>> {
        let linear = self.host_linear(name, None)?;
        self.bring(linear)
    }

    /// [`linear`](Self::linear), still on the host; of an expert if `name` is that of each.
    pub(crate) fn host_linear(
        &mut self,
        name: &str,
        expert: Option<usize>,
    ) -> Result<Linear<Matrix, Vec<f32>>> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let shape = self.sizes(&weight)?;
        let weight = name_of(&weight, expert);
        let stored = self.checkpoint.matrix(&weight, shape)?;
        let bias = match self.inventory.get(&bias) {
            Some(tensor) => Some(self.checkpoint.values(&name_of(&bias, expert), &tensor.shape)?),
            None => None,
        };
        Ok(Linear { weight: self.convert(&weight, stored)?, bias })
    }

    /// Runs `load`, which takes the experts of block `module`, whose tensors are `names`: those that
    /// are stored in different formats are converted to one that holds the values of all.
    pub(crate) fn with_experts_dtype<T>(
        &mut self,
        module: &str,
        names: &[String],
        load: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let tensors = names.iter().filter_map(|name| self.inventory.get(name));
        let stored: Vec<String> = tensors.flat_map(TensorSpec::names).collect();
        let shared = experts_dtype(self.checkpoint, stored.iter().map(String::as_str));
        let (None, Some(dtype)) = (self.dtype, shared) else { return load(self) };
        tracing::info!(module, %dtype, "experts in several formats are converted to one");
        let formats: BTreeSet<&str> = stored
            .iter()
            .filter_map(|name| self.checkpoint.dtype(name))
            .filter(|&stored| stored != dtype)
            .map(DType::name)
            .collect();
        self.report.warnings.push(format_args!(
            "{}: a layer's experts must be of one format; where some are stored as {} and others \
             are not, all are converted to {dtype}",
            self.checkpoint.file(),
            Vec::from_iter(formats).join(" or ")
        ));
        self.dtype = Some(dtype);
        let loaded = load(self);
        self.dtype = None;
        loaded
    }

    /// Three linear layers of one input, stored one below the other.
    pub(crate) fn split_linear(&mut self, name: &str) -> Result<[Arc<DeviceLinear<D>>; 3]> {
        let Linear { weight, bias } = self.host_linear(name, None)?;
        let rows = weight.rows() / 3;
        let part = |index: usize| {
            let rows = index * rows..(index + 1) * rows;
            let bias = bias.as_ref().map(|bias| bias[rows.clone()].to_vec());
            self.bring(Linear { weight: weight.row_range(rows), bias })
        };
        Ok([part(0)?, part(1)?, part(2)?])
    }

    /// Filters `{name}.weight` [out, …] as [out, values of a filter], with their bias.
    pub(crate) fn filters(&mut self, name: &str) -> Result<Arc<DeviceLinear<D>>> {
        let weight = format!("{name}.weight");
        let stored = self.checkpoint.filters(&weight, self.shape(&weight)?)?;
        let weight = self.convert(&weight, stored)?;
        let bias = self.optional_vector(&format!("{name}.bias"))?;
        self.bring(Linear { weight, bias })
    }

    /// A tensor [rows, cols] whose rows are looked up.
    pub(crate) fn table(&mut self, name: &str) -> Result<Arc<D::Matrix>> {
        let shape = self.sizes(name)?;
        let stored = self.checkpoint.matrix(name, shape)?;
        let table = self.convert(name, stored)?;
        Ok(Arc::new(self.device.load_matrix(table)?))
    }

    /// `{name}.weight`, in f32.
    pub(crate) fn norm(&self, name: &str) -> Result<Arc<D::Vector>> {
        self.vector(&format!("{name}.weight"))
    }

    /// A tensor of few values, in f32.
    pub(crate) fn vector(&self, name: &str) -> Result<Arc<D::Vector>> {
        Ok(Arc::new(self.device.load_vector(self.host_vector(name)?)?))
    }

    /// [`vector`](Self::vector), still on the host.
    pub(crate) fn host_vector(&self, name: &str) -> Result<Vec<f32>> {
        self.checkpoint.values(name, self.shape(name)?)
    }

    fn optional_vector(&self, name: &str) -> Result<Option<Vec<f32>>> {
        self.inventory.contains_key(name).then(|| self.host_vector(name)).transpose()
    }

    fn bring(&self, linear: Linear<Matrix, Vec<f32>>) -> Result<Arc<DeviceLinear<D>>> {
        let bias = linear.bias.map(|bias| self.device.load_vector(bias)).transpose()?;
        Ok(Arc::new(Linear { weight: self.device.load_matrix(linear.weight)?, bias }))
    }

    /// A tensor [n, out, in], or [n, in, out] if it is stored so, as n matrices [out, in] on the host.
    pub(crate) fn stack(&mut self, name: &str) -> Result<Vec<Matrix>> {
        let shape = self.sizes(name)?;
        let stored = self.checkpoint.stack(name, shape)?;
        let is_exchanged =
            self.inventory.get(name).is_some_and(|t| t.orientation == Orientation::InOut);
        if is_exchanged {
            return self.exchanged(&parts(&stored, shape[0]));
        }
        Ok(parts(&self.convert(name, stored)?, shape[0]))
    }

    /// Copies with their axes exchanged, made by all threads of the machine.
    fn exchanged(&mut self, stored: &[Matrix]) -> Result<Vec<Matrix>> {
        let exchange = |stored: &Matrix| {
            let matrix = stored.transposed()?;
            self.dtype.map_or(Ok(matrix.clone()), |dtype| matrix.to_dtype(dtype))
        };
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let share = stored.len().div_ceil(threads).max(1);
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
        let bytes: usize = exchanged.iter().map(Matrix::size_bytes).sum();
        self.report.converted_bytes += bytes;
        self.uploads(bytes);
        self.progress.advance(CONVERSION, bytes as u64);
        Ok(exchanged)
    }

    /// A tensor as it is used.
    fn convert(&mut self, name: &str, stored: Matrix) -> Result<Matrix> {
        let format = stored.format();
        let matrix = match self.dtype {
            Some(dtype) => stored.to_dtype(dtype)?,
            None => stored,
        };
        if matrix.format() == format && !self.checkpoint.is_copied(name) {
            self.report.in_place_bytes += matrix.size_bytes();
        } else {
            self.report.converted_bytes += matrix.size_bytes();
        }
        self.uploads(matrix.size_bytes());
        Ok(matrix)
    }
}

/// What the experts of a layer are converted to where they are stored in several formats: that which
/// holds the values of all, F32 for F16 beside BF16.
pub(crate) fn experts_dtype<'n>(
    checkpoint: &Checkpoint,
    names: impl Iterator<Item = &'n str>,
) -> Option<DType> {
    let mut stored = names.filter_map(|name| checkpoint.dtype(name));
    let first = stored.next()?;
    stored.any(|dtype| dtype != first).then_some(DType::F32)
}

/// A matrix cut into `n` of equal height, in place.
fn parts(matrix: &Matrix, n: usize) -> Vec<Matrix> {
    let rows = matrix.rows().checked_div(n).unwrap_or(0);
    (0..n).map(|index| matrix.row_range(index * rows..(index + 1) * rows)).collect()
}
