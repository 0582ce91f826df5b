//! The arguments of a call: addresses and shapes that Python's side reads off torch's tensors, as
//! the views that the kernels take.

use std::sync::Arc;

use half::{bf16, f16};
use moexperts::{
    DType,
    core::{Error, Matrix, MatrixLayout, Result, Routing, Storage},
    cpu::{Rows, RowsMut, ValuesMut},
};
use pyo3::{
    exceptions::{PyTypeError, PyValueError},
    prelude::*,
};

use crate::addresses::{self, ForeignBytes};

/// Address, shape [E, _, _] and strides, in elements, of a parameter.
pub(crate) type Parameter = (usize, [usize; 3], [usize; 3]);

/// Address, dtype, shape [E, out] and strides, in elements, of the biases of a projection.
pub(crate) type Biases = (usize, String, [usize; 2], [usize; 2]);

/// Address, dtype, [rows, cols] and elements from a row to the next.
pub(crate) type Activations = (usize, String, [usize; 2], usize);

/// Addresses of `top_k_index` (int64) and `top_k_weights`, contiguous; the dtype of the weights, K.
pub(crate) type Routes = (usize, usize, String, usize);

pub(crate) fn raised(error: Error) -> PyErr {
    match error {
        Error::Format { .. } => PyTypeError::new_err(error.to_string()),
        _ => PyValueError::new_err(error.to_string()),
    }
}

/// The matrix [out, in] of each expert, over one parameter.
pub(crate) fn matrices(
    (address, [experts, rows, cols], [apart, row_stride, col_stride]): Parameter,
    dtype: DType,
    transposed: bool,
) -> Result<Vec<Matrix>> {
    let last = |len: usize, stride: usize| len.saturating_sub(1) * stride;
    let span = last(experts, apart) + last(rows, row_stride) + last(cols, col_stride) + 1;
    let span = if experts * rows * cols == 0 { 0 } else { span };
    let storage: Arc<dyn Storage> = Arc::new(ForeignBytes::new(address, span * dtype.size_bytes()));
    let matrix = |expert: usize| {
        let offset_bytes = expert * apart * dtype.size_bytes();
        let layout = MatrixLayout { offset_bytes, dtype, rows, cols, row_stride, col_stride };
        let matrix = Matrix::new(Arc::clone(&storage), layout)?;
        Ok(if transposed { matrix.exchanged() } else { matrix })
    };
    (0..experts).map(matrix).collect()
}

/// Activations of a call.
pub(crate) struct Input {
    address: usize,
    dtype: DType,
    pub(crate) rows: usize,
    cols: usize,
    row_stride: usize,
}

impl Input {
    pub(crate) fn new((address, dtype, [rows, cols], row_stride): Activations) -> PyResult<Self> {
        Ok(Self { address, dtype: addresses::dtype(&dtype)?, rows, cols, row_stride })
    }

    /// # Safety
    /// The tensor lives, and nobody writes it, as long as the result is used.
    pub(crate) unsafe fn view<'a>(&self) -> Result<Rows<'a>> {
        let len = match self.rows.checked_sub(1) {
            Some(last) => last * self.row_stride + self.cols,
            None => 0,
        };
        // SAFETY: as the caller owes.
        let elements = unsafe { addresses::elements(self.address, self.dtype, len) };
        Rows::new(elements, [self.rows, self.cols], self.row_stride)
    }

    /// Room for results of the same dtype.
    ///
    /// # Safety
    /// As for [`out`].
    pub(crate) unsafe fn out<'a>(&self, address: usize, shape: [usize; 2]) -> Result<RowsMut<'a>> {
        // SAFETY: as the caller owes.
        unsafe { out(address, self.dtype, shape) }
    }
}

/// Room for results, contiguous.
///
/// # Safety
/// The tensor lives, and nobody else uses it, as long as the result is used.
pub(crate) unsafe fn out<'a>(
    address: usize,
    dtype: DType,
    shape: [usize; 2],
) -> Result<RowsMut<'a>> {
    let len = shape[0] * shape[1];
    // SAFETY: as the caller owes.
    let values = unsafe {
        match dtype {
            DType::F32 => ValuesMut::F32(addresses::slice_mut::<f32>(address, len)),
            DType::F16 => ValuesMut::F16(addresses::slice_mut::<f16>(address, len)),
            DType::Bf16 => ValuesMut::Bf16(addresses::slice_mut::<bf16>(address, len)),
        }
    };
    RowsMut::new(values, shape)
}

/// The routing of a call.
pub(crate) struct Ids {
    ids: usize,
    weights: usize,
    dtype: DType,
    tokens: usize,
    top_k: usize,
}

impl Ids {
    pub(crate) fn new((ids, weights, dtype, top_k): &Routes, tokens: usize) -> PyResult<Self> {
        let dtype = addresses::dtype(dtype)?;
        Ok(Self { ids: *ids, weights: *weights, dtype, tokens, top_k: *top_k })
    }

    pub(crate) fn write(&self, routing: &mut Routing) -> Result<()> {
        let len = self.tokens * self.top_k;
        // SAFETY: Python's side holds both tensors during a call.
        let (ids, weights) = unsafe {
            let ids = addresses::slice::<i64>(self.ids, len);
            (ids, addresses::elements(self.weights, self.dtype, len))
        };
        let (top_k_index, top_k_weights) = routing.reset(self.tokens, self.top_k);
        for (place, (to, &id)) in top_k_index.iter_mut().zip(ids).enumerate() {
            // One beyond the last expert is a sentinel, however far.
            *to = match u64::try_from(id) {
                Ok(id) => u32::try_from(id).unwrap_or(u32::MAX),
                Err(_) => {
                    let (token, k) = (place / self.top_k, place % self.top_k);
                    return Err(Error::Layout {
                        what: format!("top_k_index[{token}, {k}]"),
                        problem: format!("an expert is 0 or more, got {id}"),
                    });
                }
            };
        }
        weights.write_f32(top_k_weights);
        Ok(())
    }
}

/// The biases [E, out] of a projection.
pub(crate) struct BiasRows {
    address: usize,
    dtype: DType,
    shape: [usize; 2],
    strides: [usize; 2],
}

impl BiasRows {
    pub(crate) fn new((address, dtype, got, strides): Biases, shape: [usize; 2]) -> PyResult<Self> {
        if got != shape {
            return Err(raised(Error::shape("bias", shape, got)));
        }
        Ok(Self { address, dtype: addresses::dtype(&dtype)?, shape, strides })
    }

    /// Those of one expert in f32.
    pub(crate) fn row(&self, expert: usize) -> Vec<f32> {
        let [_, len] = self.shape;
        let [apart, stride] = self.strides;
        let start = self.address + expert * apart * self.dtype.size_bytes();
        let span = len.checked_sub(1).map_or(0, |last| last * stride + 1);
        // SAFETY: Python's side holds the tensor during a call.
        match unsafe { addresses::elements(start, self.dtype, span) } {
            values if stride == 1 => values.to_f32(),
            values => (0..len).map(|index| values.get(index * stride)).collect(),
        }
    }
}

/// Which experts some token goes to.
pub(crate) fn hit(routing: &Routing, experts: usize) -> Vec<bool> {
    let mut hit = vec![false; experts];
    for &id in routing.top_k_index() {
        if let Some(hit) = hit.get_mut(id as usize) {
            *hit = true;
        }
    }
    hit
}
