//! Measured limits of a GPU: how fast its memory is read and copied, and how fast the linear layer of
//! this crate is.

use std::slice::from_mut;

use bytemuck::NoUninit;
use moexperts_core::{DType, Linear, Matrix, Memory, Operations, Result, Scratch};

use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    kernels::{Kernel, LIMITS},
    runtime::{
        buffer::CudaBuffer,
        memory::{CudaMatrix, CudaTensor, CudaVector},
    },
};

/// Larger than any second-level cache, so that reads come from memory.
const BUFFER_BYTES: usize = 1 << 30;

/// Bytes that are read at least, even if little memory is free.
const LEAST_BYTES: usize = 1 << 20;

/// Rows, inputs and outputs of the product: enough work for every multiprocessor to reach its speed.
const PRODUCT: usize = 8192;

/// The least size of that product, where little memory is free.
const LEAST_PRODUCT: usize = 64;

/// Measurements after a first one that is discarded; the result is their median.
const ROUNDS: usize = 5;

/// Threads of a block of `read_bandwidth`.
const READ_THREADS: u32 = 256;

/// Blocks of `read_bandwidth` per multiprocessor: 8 of 256 threads are the 2048 that it holds at once.
const READ_BLOCKS: usize = 8;

/// `ReadParams` of limits.cu.
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
struct ReadParams {
    from: DevicePtr,
    out: DevicePtr,
    len: u64,
}

static READ: Kernel<ReadParams> = Kernel::new(&LIMITS, "read_bandwidth", READ_THREADS);

/// The speed of a GPU's memory.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
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

/// The speed of the linear layer on a large product: a limit of this crate, not of the machine.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct LinearSpeed {
    /// Multiplications and additions a second.
    pub flops_per_second: f64,
    /// The dtype of the weight.
    pub dtype: DType,
    /// Rows, inputs and outputs.
    pub size: usize,
}

/// Measures a GPU. No memory of it is kept between measurements.
#[derive(Debug)]
pub struct Limits {
    cuda: Cuda,
    /// Bytes that are read, if that much memory is free.
    bytes: usize,
    /// The dtype of the weight; rows, inputs and outputs, if that much memory is free.
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
    /// Measures with the sizes that suit any GPU.
    ///
    /// - `dtype`: the type of the weights whose products are measured; `None` to measure memory alone
    pub fn new(cuda: &Cuda, dtype: Option<DType>) -> Self {
        Self::with_sizes(cuda, BUFFER_BYTES, dtype.map(|dtype| (dtype, PRODUCT)))
    }

    /// The same, with other sizes.
    ///
    /// - `bytes`: bytes that are read
    /// - `product`: the dtype of the weight, and rows, inputs and outputs alike
    pub fn with_sizes(cuda: &Cuda, bytes: usize, product: Option<(DType, usize)>) -> Self {
        Self { cuda: cuda.clone(), bytes, product }
    }

    /// Measures the memory. Uses a quarter of what is free at most, and frees it again.
    ///
    /// # Errors
    /// If the device has not enough memory, or fails.
    pub fn bandwidth(&mut self) -> Result<Bandwidth> {
        let cuda = &self.cuda;
        // A copy reads and writes halves, all of them in units of 16 bytes.
        let bytes = self.bytes.min(self.budget()?.max(LEAST_BYTES)) / 32 * 32;
        let mut memory = CudaBuffer::new(cuda, bytes)?;
        memory.zero(cuda, bytes)?;
        let sums = CudaBuffer::new(cuda, 4 * read_blocks(cuda) * READ_THREADS as usize)?;
        let (from, out) = (memory.ptr(cuda), sums.ptr(cuda));
        let params = ReadParams { from, out, len: bytes as u64 / 16 };
        let read = seconds(cuda, || {
            // SAFETY: `read_bandwidth` takes a `ReadParams`. It reads the 16-byte values of `memory`, and
            // each of its threads writes one of the sums; both buffers live until this returns.
            unsafe { cuda.launch(&READ, [read_blocks(cuda), 1, 1], 0, params) }
        })?;
        let copy = seconds(cuda, || memory.copy_half(cuda, bytes))?;
        Ok(Bandwidth {
            read_bytes_per_second: bytes as f64 / read,
            copy_bytes_per_second: bytes as f64 / copy,
            buffer_bytes: bytes,
        })
    }

    /// Measures the linear layer, as large as fits a quarter of the free memory; `None` if no dtype was
    /// given.
    ///
    /// # Errors
    /// If the device has not enough memory, or fails.
    pub fn linear(&mut self) -> Result<Option<LinearSpeed>> {
        let Some((dtype, largest)) = self.product else { return Ok(None) };
        let budget = self.budget()?;
        let mut size = largest;
        while Product::bytes(size) > budget && size > LEAST_PRODUCT {
            size /= 2;
        }
        let cuda = &self.cuda;
        let Product { linear, x, mut out, mut scratch } = Product::new(cuda, dtype, size)?;
        let seconds =
            seconds(cuda, || cuda.linear(&x, &[&linear], &mut scratch, from_mut(&mut out)))?;
        let flops_per_second = 2.0 * (size as f64).powi(3) / seconds;
        Ok(Some(LinearSpeed { flops_per_second, dtype, size }))
    }

    /// Bytes that a measurement may use: a quarter of the free memory.
    fn budget(&self) -> Result<usize> {
        let free = self.cuda.driver().free_bytes()?;
        Ok(usize::try_from(free / 4).unwrap_or(usize::MAX))
    }
}

impl Product {
    /// Bytes of a layer of a size, at most: a weight, rows and results.
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
    // Very short work may take no time on a coarse clock, and is divided by.
    Ok(times[ROUNDS / 2].max(1.0) * 1e-9)
}
