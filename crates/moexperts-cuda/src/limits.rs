//! What a GPU can do at most, measured: bytes read from its memory, and, as far as the kernels of
//! this crate go, operations a second.

use std::slice::from_mut;

use bytemuck::{Pod, Zeroable};
use moexperts_core::{DType, Linear, Matrix, Memory, Operations, Result, Scratch};

use crate::{
    cuda::Cuda,
    driver::{DevicePtr, Work},
    kernels::{Kernel, LIMITS},
    runtime::memory::{Buffer, CudaMatrix, CudaTensor, CudaVector},
};

/// Larger than any second-level cache, so that reads come from memory.
const BUFFER_BYTES: usize = 1 << 30;

/// What is read at least, however little memory is free.
const LEAST_BYTES: usize = 1 << 20;

/// Rows, inputs and outputs of the product: enough work for every multiprocessor to reach its speed.
const PRODUCT: usize = 8192;

/// The same where next to no memory is free.
const LEAST_PRODUCT: usize = 64;

/// Measurements after one that does not count; their median counts.
const ROUNDS: usize = 5;

/// Threads of a block that reads.
const READ_THREADS: u32 = 256;

/// Blocks that read, for each multiprocessor: as many as it holds at once.
const READ_BLOCKS: usize = 8;

/// `ReadParams` of limits.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ReadParams {
    from: DevicePtr,
    out: DevicePtr,
    len: u64,
}

static READ: Kernel<ReadParams> = Kernel::new(&LIMITS, "read_bandwidth", READ_THREADS);

/// How fast the memory is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bandwidth {
    /// Bytes that a kernel reads a second.
    pub read_bytes_per_second: f64,
    /// Bytes that a copy on the device reads and writes a second, both counted.
    pub copy_bytes_per_second: f64,
    /// The memory that was read, of which a copy reads one half and writes the other.
    pub buffer_bytes: usize,
}

impl Bandwidth {
    /// The larger of the two.
    pub fn bytes_per_second(&self) -> f64 {
        self.read_bytes_per_second.max(self.copy_bytes_per_second)
    }
}

/// How fast the device's own linear layer is where it has the most work: no limit of the machine, but
/// one of this crate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinearSpeed {
    /// Multiplications and additions a second.
    pub flops_per_second: f64,
    /// The dtype of the weight.
    pub dtype: DType,
    /// Rows, inputs and outputs.
    pub size: usize,
}

/// Measures a GPU, again and again. Nothing of its memory is kept between two measurements.
#[derive(Debug)]
pub struct Limits {
    cuda: Cuda,
    /// What is read, if there is room.
    bytes: usize,
    /// The dtype of the weight, and rows, inputs and outputs, if there is room.
    product: Option<(DType, usize)>,
}

/// A linear layer of random values.
#[derive(Debug)]
struct Product {
    linear: Linear<CudaMatrix, CudaVector>,
    x: CudaTensor,
    out: CudaTensor,
    scratch: Scratch,
}

impl Limits {
    /// - `dtype`: that of the weights whose products are measured, if they are
    pub fn new(cuda: &Cuda, dtype: Option<DType>) -> Self {
        Self::with_sizes(cuda, BUFFER_BYTES, dtype.map(|dtype| (dtype, PRODUCT)))
    }

    /// The same, with other sizes.
    ///
    /// - `bytes`: what is read
    /// - `product`: the dtype of the weight, and rows, inputs and outputs alike
    pub fn with_sizes(cuda: &Cuda, bytes: usize, product: Option<(DType, usize)>) -> Self {
        Self { cuda: cuda.clone(), bytes, product }
    }

    /// How fast the memory is; a quarter of what is free is used at most, and given back.
    ///
    /// # Errors
    /// If the device has no room, or fails.
    pub fn bandwidth(&mut self) -> Result<Bandwidth> {
        let cuda = &self.cuda;
        // A copy reads and writes halves, all of them in units of 16 bytes.
        let bytes = self.bytes.min(self.room()?.max(LEAST_BYTES)) / 32 * 32;
        let (mut memory, mut sums) = (Buffer::default(), Buffer::default());
        memory.reserve(cuda, bytes)?;
        let from = memory.ptr();
        cuda.submit(Work::Zero { at: from, bytes })?;
        sums.reserve(cuda, 4 * read_blocks(cuda) * READ_THREADS as usize)?;
        let params = ReadParams { from, out: sums.ptr(), len: bytes as u64 / 16 };
        let read = seconds(cuda, || cuda.launch(&READ, [read_blocks(cuda), 1, 1], 0, params))?;
        let (to, half) = (from.offset(bytes / 2), bytes / 2);
        let copy = seconds(cuda, || cuda.submit(Work::Copy { from, to, bytes: half }))?;
        Ok(Bandwidth {
            read_bytes_per_second: bytes as f64 / read,
            copy_bytes_per_second: bytes as f64 / copy,
            buffer_bytes: bytes,
        })
    }

    /// How fast the linear layer is, as large as fits a quarter of what is free; `None` if no dtype
    /// was given.
    ///
    /// # Errors
    /// If the device has no room, or fails.
    pub fn linear(&mut self) -> Result<Option<LinearSpeed>> {
        let Some((dtype, largest)) = self.product else { return Ok(None) };
        let room = self.room()?;
        let mut size = largest;
        while Product::bytes(size) > room && size > LEAST_PRODUCT {
            size /= 2;
        }
        let cuda = &self.cuda;
        let Product { linear, x, mut out, mut scratch } = Product::new(cuda, dtype, size)?;
        let seconds =
            seconds(cuda, || cuda.linear(&x, &[&linear], &mut scratch, from_mut(&mut out)))?;
        let flops_per_second = 2.0 * (size as f64).powi(3) / seconds;
        Ok(Some(LinearSpeed { flops_per_second, dtype, size }))
    }

    /// What a measurement may take: a quarter of the memory that is free.
    fn room(&self) -> Result<usize> {
        let free = self.cuda.driver().free_bytes()?;
        Ok(usize::try_from(free / 4).unwrap_or(usize::MAX))
    }
}

impl Product {
    /// What one of this size takes at most: a weight, rows and results.
    fn bytes(size: usize) -> usize {
        3 * size * size * size_of::<f32>()
    }

    fn new(cuda: &Cuda, dtype: DType, size: usize) -> Result<Self> {
        // Zeros would need less power than weights do, and run at a higher clock.
        let mut state = 1_u32;
        let random = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let values: Vec<f32> = (0..size * size).map(random).collect();
        let weight = cuda.load_matrix(Matrix::from_f32(size, size, &values, dtype)?)?;
        let mut x = CudaTensor::default();
        cuda.load_tensor(size, size, &values, &mut x)?;
        Ok(Self {
            linear: Linear { weight, bias: None },
            x,
            out: CudaTensor::default(),
            scratch: Scratch::default(),
        })
    }
}

fn read_blocks(cuda: &Cuda) -> usize {
    READ_BLOCKS * cuda.properties().multiprocessors.max(1) as usize
}

/// The median of several measurements, from the device's own clock.
fn seconds(cuda: &Cuda, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        times.push(cuda.driver().time(&mut work)?);
    }
    times.sort_by(f64::total_cmp);
    // A clock that stands still is no reason to divide by zero.
    Ok(times[ROUNDS / 2].max(1.0) * 1e-9)
}
