//! Memory that torch owns, as slices.
//!
//! All `unsafe` about foreign memory stands here: an address, how much lies behind it, and for how
//! long. Python's side owes that a tensor lives, and is not written by others, during a call.

use half::{bf16, f16};
use moexperts::{
    DType,
    core::{Elements, Storage},
};
use pyo3::{exceptions::PyTypeError, prelude::*};

/// The bytes of a weight that torch owns. Nobody reads them between calls.
#[derive(Debug)]
pub(crate) struct ForeignBytes {
    address: usize,
    len: usize,
}

impl ForeignBytes {
    pub(crate) fn new(address: usize, len: usize) -> Self {
        Self { address, len }
    }
}

impl Storage for ForeignBytes {
    fn bytes(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: the caller of a layer's methods holds the tensor, as their docs say.
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
/// They lie there, aligned, and nobody writes them as long as the result lives.
pub(crate) unsafe fn slice<'a, T>(address: usize, len: usize) -> &'a [T] {
    if len == 0 {
        return &[];
    }
    // SAFETY: as the caller owes.
    unsafe { std::slice::from_raw_parts(address as *const T, len) }
}

/// `len` values at an address, to be written.
///
/// # Safety
/// They lie there, aligned, and nobody else uses them as long as the result lives.
pub(crate) unsafe fn slice_mut<'a, T>(address: usize, len: usize) -> &'a mut [T] {
    if len == 0 {
        return &mut [];
    }
    // SAFETY: as the caller owes.
    unsafe { std::slice::from_raw_parts_mut(address as *mut T, len) }
}

/// `len` values of a dtype at an address.
///
/// # Safety
/// As for [`slice`].
pub(crate) unsafe fn elements<'a>(address: usize, dtype: DType, len: usize) -> Elements<'a> {
    // SAFETY: as the caller owes.
    unsafe {
        match dtype {
            DType::F32 => Elements::F32(slice::<f32>(address, len)),
            DType::F16 => Elements::F16(slice::<f16>(address, len)),
            DType::Bf16 => Elements::Bf16(slice::<bf16>(address, len)),
        }
    }
}
