//! Memory that torch owns, as slices.
//!
//! Everything about foreign memory is `unsafe` and starts here: an address, a length, a lifetime. The facts
//! come from Python's side (`_ops.py`): it reads address, shape and strides off one tensor, and holds that
//! tensor during the call.

use half::{bf16, f16};
use moexperts_core::{DType, Elements, Storage};
use pyo3::{exceptions::PyTypeError, prelude::*};

/// The bytes of a weight that torch owns. They are read during calls only.
#[derive(Debug)]
pub(crate) struct ForeignBytes {
    address: usize,
    len: usize,
}

impl ForeignBytes {
    /// Describes `len` bytes at an address.
    ///
    /// # Safety
    /// Whenever [`bytes`](Storage::bytes) of the result is called, and as long as what it returned is
    /// used, `len` initialised bytes lie at `address` and are not written.
    pub(crate) unsafe fn new(address: usize, len: usize) -> Self {
        Self { address, len }
    }
}

impl Storage for ForeignBytes {
    fn bytes(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: `new` requires that these bytes are there now and are not written.
        unsafe { std::slice::from_raw_parts(self.address as *const u8, self.len) }
    }
}

/// A dtype by the name torch gives it.
pub(crate) fn dtype(name: &str) -> PyResult<DType> {
    match name {
        "float32" => Ok(DType::F32),
        "float16" => Ok(DType::F16),
        "bfloat16" => Ok(DType::Bf16),
        _ => Err(PyTypeError::new_err(format!(
            "dtype {name} is not supported, expected one of float32, float16, bfloat16"
        ))),
    }
}

/// `len` values at an address.
///
/// # Safety
/// `len` initialised values lie at `address`, aligned for `T`, and are not written during `'a`.
pub(crate) unsafe fn slice<'a, T>(address: usize, len: usize) -> &'a [T] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the function requires `len` aligned values at `address` that are not written during `'a`.
    unsafe { std::slice::from_raw_parts(address as *const T, len) }
}

/// `len` values at an address, to be written.
///
/// # Safety
/// `len` initialised values lie at `address`, aligned for `T`, and nothing else uses them during `'a`.
pub(crate) unsafe fn slice_mut<'a, T>(address: usize, len: usize) -> &'a mut [T] {
    if len == 0 {
        return &mut [];
    }
    // SAFETY: the function requires `len` aligned values at `address` that only `'a` uses.
    unsafe { std::slice::from_raw_parts_mut(address as *mut T, len) }
}

/// `len` values of a dtype at an address.
///
/// # Safety
/// As for [`slice`], with values of `dtype`.
pub(crate) unsafe fn elements<'a>(address: usize, dtype: DType, len: usize) -> Elements<'a> {
    // SAFETY: the function requires values of `dtype` at `address`, as `slice` does.
    unsafe {
        match dtype {
            DType::F32 => Elements::F32(slice::<f32>(address, len)),
            DType::F16 => Elements::F16(slice::<f16>(address, len)),
            DType::Bf16 => Elements::Bf16(slice::<bf16>(address, len)),
        }
    }
}
