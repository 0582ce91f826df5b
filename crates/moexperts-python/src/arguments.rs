//! The arguments of a call: addresses and shapes that Python's side reads off torch's tensors, as
//! the views that the kernels take.

use std::sync::Arc;

use half::{bf16, f16};
use moexperts_core::{DType, Error, Matrix, MatrixLayout, Result, Routing, Storage};
use moexperts_cpu::{Rows, RowsMut, ValuesMut};
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
///
/// # Safety
/// Whenever a call reads a matrix of the result, a tensor of this address, shape, strides and dtype
/// lives, and is not written during that call.
pub(crate) unsafe fn matrices(
    (address, [experts, rows, cols], [apart, row_stride, col_stride]): Parameter,
    dtype: DType,
    transposed: bool,
) -> Result<Vec<Matrix>> {
    let last = |len: usize, stride: usize| len.saturating_sub(1) * stride;
    let span = last(experts, apart) + last(rows, row_stride) + last(cols, col_stride) + 1;
    let span = if experts * rows * cols == 0 { 0 } else { span };
    // SAFETY: `span` elements reach from the first to the last of the tensor, which lives and is not
    // written when they are read, as the function requires.
    let bytes = unsafe { ForeignBytes::new(address, span * dtype.size_bytes()) };
    let storage: Arc<dyn Storage> = Arc::new(bytes);
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
    /// # Safety
    /// As long as the result lives, the tensor lives and is not written.
    pub(crate) unsafe fn new(
        (address, dtype, [rows, cols], row_stride): Activations,
    ) -> PyResult<Self> {
        Ok(Self { address, dtype: addresses::dtype(&dtype)?, rows, cols, row_stride })
    }

    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(crate) fn view(&self) -> Result<Rows<'_>> {
        let len = match self.rows.checked_sub(1) {
            Some(last) => last * self.row_stride + self.cols,
            None => 0,
        };
        // SAFETY: `len` elements end with the last of the tensor, which lives and is not written as
        // long as `self` lives, as `new` requires; torch aligns tensors for their dtype.
        let elements = unsafe { addresses::elements(self.address, self.dtype, len) };
        Rows::new(elements, [self.rows, self.cols], self.row_stride)
    }
}

/// The tensor that takes the results of a call, contiguous.
pub(crate) struct Output {
    address: usize,
    dtype: DType,
    shape: [usize; 2],
}

impl Output {
    /// # Safety
    /// As long as the result lives, a contiguous tensor of this dtype and shape lives at `address`, and
    /// nothing else uses it.
    pub(crate) unsafe fn new(address: usize, dtype: DType, shape: [usize; 2]) -> Self {
        Self { address, dtype, shape }
    }

    pub(crate) fn view(&mut self) -> Result<RowsMut<'_>> {
        let (address, len) = (self.address, self.shape[0] * self.shape[1]);
        // SAFETY: the tensor has `len` elements of `dtype`, and is used through `self` alone, as `new`
        // requires; torch aligns tensors for their dtype.
        let values = unsafe {
            match self.dtype {
                DType::F32 => ValuesMut::F32(addresses::slice_mut::<f32>(address, len)),
                DType::F16 => ValuesMut::F16(addresses::slice_mut::<f16>(address, len)),
                DType::Bf16 => ValuesMut::Bf16(addresses::slice_mut::<bf16>(address, len)),
            }
        };
        RowsMut::new(values, self.shape)
    }
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
    /// # Safety
    /// As long as the result lives, both tensors, contiguous and [tokens, K], live and are not written.
    pub(crate) unsafe fn new(
        (ids, weights, dtype, top_k): &Routes,
        tokens: usize,
    ) -> PyResult<Self> {
        let dtype = addresses::dtype(dtype)?;
        Ok(Self { ids: *ids, weights: *weights, dtype, tokens, top_k: *top_k })
    }

    pub(crate) fn write(&self, routing: &mut Routing) -> Result<()> {
        let len = self.tokens * self.top_k;
        // SAFETY: both tensors have `len` elements, int64 and `dtype`, and live as long as `self`, as
        // `new` requires.
        let (ids, weights) = unsafe {
            let ids = addresses::slice::<i64>(self.ids, len);
            (ids, addresses::elements(self.weights, self.dtype, len))
        };
        let (top_k_index, top_k_weights) = routing.reset(self.tokens, self.top_k);
        for (place, (to, &id)) in top_k_index.iter_mut().zip(ids).enumerate() {
            // An id beyond the last expert is a sentinel, however large.
            *to = match u64::try_from(id) {
                Ok(id) => u32::try_from(id).unwrap_or(u32::MAX),
                Err(_) => {
                    let (token, k) = (place / self.top_k, place % self.top_k);
                    return Err(Error::Layout {
                        what: format!("top_k_index[{token}, {k}]"),
                        problem: format!("expected the id of an expert, 0 or more, got {id}"),
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
    /// # Safety
    /// As long as the result lives, the tensor lives and is not written.
    pub(crate) unsafe fn new(
        (address, dtype, got, strides): Biases,
        shape: [usize; 2],
    ) -> PyResult<Self> {
        if got != shape {
            return Err(raised(Error::shape("bias", shape, got)));
        }
        Ok(Self { address, dtype: addresses::dtype(&dtype)?, shape, strides })
    }

    /// The biases of one expert in f32.
    ///
    /// # Panics
    /// If there is no such expert.
    pub(crate) fn row(&self, expert: usize) -> Vec<f32> {
        let [experts, len] = self.shape;
        assert!(expert < experts, "expert {expert} of {experts}");
        let [apart, stride] = self.strides;
        let start = self.address + expert * apart * self.dtype.size_bytes();
        let span = len.checked_sub(1).map_or(0, |last| last * stride + 1);
        // SAFETY: row `expert` is one of the tensor's, and `span` elements end with its last; the tensor
        // lives and is not written as long as `self` lives, as `new` requires.
        match unsafe { addresses::elements(start, self.dtype, span) } {
            values if stride == 1 => values.to_f32(),
            values => (0..len).map(|index| values.get(index * stride)).collect(),
        }
    }
}

/// For each expert, whether a token is routed to it.
pub(crate) fn hit(routing: &Routing, experts: usize) -> Vec<bool> {
    let mut hit = vec![false; experts];
    for &id in routing.top_k_index() {
        if let Some(hit) = hit.get_mut(id as usize) {
            *hit = true;
        }
    }
    hit
}
