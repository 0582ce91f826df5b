//! Tensors, weights and routings in the GPU's memory.

use std::{ops::Range, sync::Arc};

use moexperts_core::{DType, Elements, Matrix, Result, Routing, Weight, WeightFormat, checks};

use super::buffer::{CudaBuffer, Indices};
use crate::{cuda::Cuda, driver::DevicePtr, error::problem};

/// Bytes of [rows, cols] values of 32 bits.
///
/// # Errors
/// If they are more than an address can count.
fn bytes_of_words(rows: usize, cols: usize) -> Result<usize> {
    let bytes = rows.checked_mul(cols).and_then(|values| values.checked_mul(4));
    bytes.ok_or_else(|| problem(format!("no memory for [{rows}, {cols}] values")))
}

/// Activations [rows, cols] in f32, row-major without gaps.
#[derive(Debug, Default)]
pub struct CudaTensor {
    buffer: CudaBuffer,
    rows: usize,
    cols: usize,
    /// Numbers for the operation that writes this tensor, if it has no scratch to keep them in.
    pub(crate) indices: Indices,
}

impl CudaTensor {
    /// Takes another shape, its values unspecified; memory is reused.
    ///
    /// # Errors
    /// If the device has not enough memory.
    pub fn reset(&mut self, cuda: &Cuda, rows: usize, cols: usize) -> Result<()> {
        // If the memory runs out, the tensor is empty.
        (self.rows, self.cols) = (0, 0);
        self.buffer.reserve(cuda, bytes_of_words(rows, cols)?)?;
        (self.rows, self.cols) = (rows, cols);
        Ok(())
    }

    /// [0, 0], with memory for a number of values.
    pub(crate) fn with_capacity(cuda: &Cuda, values: usize) -> Result<Self> {
        let mut tensor = Self::default();
        tensor.reset(cuda, values, 1)?;
        tensor.reset(cuda, 0, 0)?;
        Ok(tensor)
    }

    /// Takes a shape and uploads its values.
    ///
    /// # Panics
    /// If there are not as many values as the shape has.
    pub(crate) fn load(
        &mut self,
        cuda: &Cuda,
        rows: usize,
        cols: usize,
        values: &[f32],
    ) -> Result<()> {
        self.reset(cuda, rows, cols)?;
        assert_eq!(values.len(), self.len(), "values of [{rows}, {cols}]");
        self.buffer.upload(cuda, values)?;
        Ok(())
    }

    /// Reads the values, after all work submitted before.
    pub(crate) fn read(&self, cuda: &Cuda, out: &mut Vec<f32>) -> Result<()> {
        out.resize(self.len(), 0.0);
        self.buffer.read(cuda, out)
    }

    /// The same values in another shape.
    ///
    /// # Panics
    /// If that has another number of values.
    pub(crate) fn reshaped(self, rows: usize, cols: usize) -> Self {
        assert_eq!(self.rows * self.cols, rows * cols);
        Self { rows, cols, ..self }
    }

    /// Number of rows; one per token.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// [rows, cols].
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first value.
    ///
    /// # Panics
    /// If it is in the memory of another GPU.
    pub fn ptr(&self, cuda: &Cuda) -> DevicePtr {
        self.buffer.ptr(cuda)
    }
}

/// A vector in f32.
#[derive(Debug, Clone)]
pub struct CudaVector {
    buffer: Arc<CudaBuffer>,
    len: usize,
}

impl CudaVector {
    pub(crate) fn load(cuda: &Cuda, values: &[f32]) -> Result<Self> {
        let buffer = Arc::new(CudaBuffer::with_values(cuda, values)?);
        Ok(Self { buffer, len: values.len() })
    }

    /// The first value of a vector; null if there is none.
    pub(crate) fn ptr_or_null(vector: Option<&Self>, cuda: &Cuda) -> DevicePtr {
        vector.map_or(DevicePtr::NULL, |vector| vector.ptr(cuda))
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first value.
    ///
    /// # Panics
    /// If it is in the memory of another GPU.
    pub fn ptr(&self, cuda: &Cuda) -> DevicePtr {
        self.buffer.ptr(cuda)
    }
}

fn bytes_of(elements: Elements<'_>) -> &[u8] {
    match elements {
        Elements::F32(values) => bytemuck::cast_slice(values),
        Elements::F16(values) => bytemuck::cast_slice(values),
        Elements::Bf16(values) => bytemuck::cast_slice(values),
    }
}

/// A weight [out, in], its rows 16-byte aligned and a fixed number of elements apart.
#[derive(Debug, Clone)]
pub struct CudaMatrix {
    buffer: Arc<CudaBuffer>,
    offset_bytes: usize,
    dtype: DType,
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl CudaMatrix {
    /// Uploads a matrix without the gaps between its rows.
    pub(crate) fn load(cuda: &Cuda, matrix: &Matrix) -> Result<Self> {
        checks::format(cuda, matrix.format())?;
        let matrix = &matrix.row_major()?;
        let dtype = matrix.elements().dtype();
        let (rows, cols, size) = (matrix.rows(), matrix.cols(), dtype.size_bytes());
        // A multiple of 16 bytes: kernels read a row in pieces of that size.
        let row_stride = cols.next_multiple_of(16 / size);
        let buffer = if matrix.row_stride() == row_stride && row_stride == cols {
            CudaBuffer::with_values(cuda, bytes_of(matrix.elements()))?
        } else {
            let mut packed = vec![0_u8; rows * row_stride * size];
            for (row, to) in packed.chunks_exact_mut((row_stride * size).max(1)).enumerate() {
                to[..cols * size].copy_from_slice(bytes_of(matrix.row(row)));
            }
            CudaBuffer::with_values(cuda, &packed)?
        };
        Ok(Self { buffer: Arc::new(buffer), offset_bytes: 0, dtype, rows, cols, row_stride })
    }

    /// Elements from the start of a row to the start of the next.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// The type of the elements.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// The first element.
    ///
    /// # Panics
    /// If it is in the memory of another GPU.
    pub fn ptr(&self, cuda: &Cuda) -> DevicePtr {
        self.buffer.ptr(cuda).offset(self.offset_bytes)
    }
}

impl Weight for CudaMatrix {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn format(&self) -> WeightFormat {
        self.dtype.into()
    }

    fn block(&self, rows: Range<usize>, cols: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        assert!(cols.start <= cols.end && cols.end <= self.cols, "columns {cols:?}");
        let skipped = rows.start * self.row_stride + cols.start;
        Self {
            buffer: Arc::clone(&self.buffer),
            offset_bytes: self.offset_bytes + skipped * self.dtype.size_bytes(),
            rows: rows.len(),
            cols: cols.len(),
            ..*self
        }
    }
}

/// `top_k_index` [T, K] in u32, then `top_k_weights` [T, K] in f32.
#[derive(Debug, Default)]
pub struct CudaRouting {
    index: CudaBuffer,
    weights: CudaBuffer,
    tokens: usize,
    top_k: usize,
}

impl CudaRouting {
    /// Takes another shape, its values unspecified; memory is reused.
    ///
    /// # Errors
    /// If the device has not enough memory.
    pub fn reset(&mut self, cuda: &Cuda, tokens: usize, top_k: usize) -> Result<()> {
        // If the memory runs out, the routing is empty.
        (self.tokens, self.top_k) = (0, 0);
        let bytes = bytes_of_words(tokens, top_k)?;
        self.index.reserve(cuda, bytes)?;
        self.weights.reserve(cuda, bytes)?;
        (self.tokens, self.top_k) = (tokens, top_k);
        Ok(())
    }

    /// Uploads a routing.
    pub(crate) fn load(cuda: &Cuda, routing: &Routing) -> Result<Self> {
        let mut loaded = Self::default();
        loaded.reset(cuda, routing.tokens(), routing.top_k())?;
        loaded.index.upload(cuda, routing.top_k_index())?;
        loaded.weights.upload(cuda, routing.top_k_weights())?;
        Ok(loaded)
    }

    /// Reads the routing, after all work submitted before.
    pub(crate) fn to_host(&self, cuda: &Cuda) -> Result<Routing> {
        let pairs = self.tokens * self.top_k;
        let (mut index, mut weights) = (vec![0; pairs], vec![0.0; pairs]);
        self.index.read(cuda, &mut index)?;
        self.weights.read(cuda, &mut weights)?;
        Routing::new(self.top_k, index, weights)
    }

    /// T: tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// K: experts per token.
    pub fn top_k(&self) -> usize {
        self.top_k
    }

    /// Expert ids [T, K] in u32.
    ///
    /// # Panics
    /// If they are in the memory of another GPU.
    pub fn top_k_index(&self, cuda: &Cuda) -> DevicePtr {
        self.index.ptr(cuda)
    }

    /// Routing weights [T, K] in f32.
    ///
    /// # Panics
    /// If they are in the memory of another GPU.
    pub fn top_k_weights(&self, cuda: &Cuda) -> DevicePtr {
        self.weights.ptr(cuda)
    }
}
