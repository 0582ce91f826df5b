//! What lies in the device's memory.

use std::{ops::Range, sync::Arc};

use moexperts_core::{DType, Elements, Matrix, Result, Routing, Weight, WeightFormat, checks};

use crate::{
    cuda::Cuda,
    driver::{DevicePtr, Driver},
};

/// Memory that is given back when nobody holds it.
#[derive(Debug)]
struct Allocation {
    driver: Arc<dyn Driver>,
    ptr: DevicePtr,
    bytes: usize,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.driver.free(self.ptr);
    }
}

/// Memory that grows; none by default.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Option<Allocation>);

impl Buffer {
    /// Makes room for so many bytes. What was there is lost if it has to grow.
    pub(crate) fn reserve(&mut self, cuda: &Cuda, bytes: usize) -> Result<()> {
        if bytes <= self.bytes() {
            return Ok(());
        }
        // First, so that the two need not stand side by side.
        self.0 = None;
        let ptr = cuda.driver().alloc(bytes)?;
        self.0 = Some(Allocation { driver: Arc::clone(cuda.driver()), ptr, bytes });
        Ok(())
    }

    /// Where it begins; 0 if there is none.
    pub(crate) fn ptr(&self) -> DevicePtr {
        self.0.as_ref().map_or(DevicePtr(0), |allocation| allocation.ptr)
    }

    /// How many bytes there are.
    pub(crate) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |allocation| allocation.bytes)
    }
}

/// Numbers that an operation brings to the device; none by default.
#[derive(Debug, Default)]
pub(crate) struct Indices {
    values: Vec<u32>,
    buffer: Buffer,
}

impl Indices {
    /// Brings numbers in the place of those before; the room there is is used again.
    pub(crate) fn upload(
        &mut self,
        cuda: &Cuda,
        values: impl IntoIterator<Item = u32>,
    ) -> Result<DevicePtr> {
        self.values.clear();
        self.values.extend(values);
        cuda.upload(&self.values, &mut self.buffer)
    }
}

/// Activations [rows, cols] in f32, row-major without gaps.
#[derive(Debug, Default)]
pub struct CudaTensor {
    buffer: Buffer,
    rows: usize,
    cols: usize,
    /// Of the operations that write this tensor and have no room of their own.
    pub(crate) indices: Indices,
}

impl CudaTensor {
    /// Takes another shape, its values unspecified; the room there is is used again.
    ///
    /// # Errors
    /// If the device has no room for it.
    pub fn reset(&mut self, cuda: &Cuda, rows: usize, cols: usize) -> Result<()> {
        self.buffer.reserve(cuda, 4 * rows * cols)?;
        (self.rows, self.cols) = (rows, cols);
        Ok(())
    }

    /// [0, 0], with room for so many values.
    pub(crate) fn with_capacity(cuda: &Cuda, values: usize) -> Result<Self> {
        let mut tensor = Self::default();
        tensor.buffer.reserve(cuda, 4 * values)?;
        Ok(tensor)
    }

    /// Takes a shape and brings values to the device.
    pub(crate) fn load(
        &mut self,
        cuda: &Cuda,
        rows: usize,
        cols: usize,
        values: &[f32],
    ) -> Result<()> {
        self.reset(cuda, rows, cols)?;
        cuda.upload(values, &mut self.buffer)?;
        Ok(())
    }

    /// The same values in another shape of as many.
    pub(crate) fn reshaped(self, rows: usize, cols: usize) -> Self {
        debug_assert_eq!(self.rows * self.cols, rows * cols);
        Self { rows, cols, ..self }
    }

    /// Number of rows; one a token.
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

    /// Where the values are.
    pub fn ptr(&self) -> DevicePtr {
        self.buffer.ptr()
    }
}

/// A vector in f32.
#[derive(Debug, Clone)]
pub struct CudaVector {
    buffer: Arc<Buffer>,
    len: usize,
}

impl CudaVector {
    pub(crate) fn load(cuda: &Cuda, values: &[f32]) -> Result<Self> {
        let mut buffer = Buffer::default();
        cuda.upload(values, &mut buffer)?;
        Ok(Self { buffer: Arc::new(buffer), len: values.len() })
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the values are.
    pub fn ptr(&self) -> DevicePtr {
        self.buffer.ptr()
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
    buffer: Arc<Buffer>,
    offset_bytes: usize,
    dtype: DType,
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl CudaMatrix {
    /// Brings a matrix to the device, gaps between its rows left out.
    pub(crate) fn load(cuda: &Cuda, matrix: &Matrix) -> Result<Self> {
        checks::format(cuda, matrix.format())?;
        let matrix = &matrix.row_major()?;
        let dtype = matrix.elements().dtype();
        let (rows, cols, size) = (matrix.rows(), matrix.cols(), dtype.size_bytes());
        // Rows begin where 16 bytes can be read at once.
        let row_stride = cols.next_multiple_of(16 / size);
        let mut buffer = Buffer::default();
        if matrix.row_stride() == row_stride && row_stride == cols {
            cuda.upload(bytes_of(matrix.elements()), &mut buffer)?;
        } else {
            let mut packed = vec![0_u8; rows * row_stride * size];
            for (row, to) in packed.chunks_exact_mut((row_stride * size).max(1)).enumerate() {
                to[..cols * size].copy_from_slice(bytes_of(matrix.row(row)));
            }
            cuda.upload(&packed, &mut buffer)?;
        }
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

    /// Where the first element is.
    pub fn ptr(&self) -> DevicePtr {
        self.buffer.ptr().offset(self.offset_bytes)
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
    index: Buffer,
    weights: Buffer,
    tokens: usize,
    top_k: usize,
}

impl CudaRouting {
    /// Takes another shape, its values unspecified; the room there is is used again.
    ///
    /// # Errors
    /// If the device has no room for it.
    pub fn reset(&mut self, cuda: &Cuda, tokens: usize, top_k: usize) -> Result<()> {
        self.index.reserve(cuda, 4 * tokens * top_k)?;
        self.weights.reserve(cuda, 4 * tokens * top_k)?;
        (self.tokens, self.top_k) = (tokens, top_k);
        Ok(())
    }

    /// Brings a routing to the device.
    pub(crate) fn load(cuda: &Cuda, routing: &Routing) -> Result<Self> {
        let mut loaded = Self::default();
        loaded.reset(cuda, routing.tokens(), routing.top_k())?;
        cuda.upload(routing.top_k_index(), &mut loaded.index)?;
        cuda.upload(routing.top_k_weights(), &mut loaded.weights)?;
        Ok(loaded)
    }

    /// Reads the routing back.
    pub(crate) fn to_host(&self, cuda: &Cuda) -> Result<Routing> {
        let pairs = self.tokens * self.top_k;
        let (mut index, mut weights) = (vec![0; pairs], vec![0.0; pairs]);
        cuda.read(self.index.ptr(), &mut index)?;
        cuda.read(self.weights.ptr(), &mut weights)?;
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
    pub fn top_k_index(&self) -> DevicePtr {
        self.index.ptr()
    }

    /// Routing weights [T, K] in f32.
    pub fn top_k_weights(&self) -> DevicePtr {
        self.weights.ptr()
    }
}
