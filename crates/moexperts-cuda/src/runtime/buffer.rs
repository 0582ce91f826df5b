//! Memory of the GPU that knows its length and its driver.

use std::sync::Arc;

use bytemuck::{NoUninit, Pod};
use moexperts_core::Result;

use super::replay;
use crate::{
    cuda::Cuda,
    driver::{DevicePtr, Driver, Work},
};

/// Allocated memory; dropping it frees it.
#[derive(Debug)]
struct Allocation {
    driver: Arc<dyn Driver>,
    ptr: DevicePtr,
    bytes: usize,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: `CudaBuffer::reserve` got the pointer from this driver, and only this frees it, once.
        unsafe { replay::free(&self.driver, self.ptr) };
    }
}

/// Memory of a GPU, freed when it is dropped. Empty by default; it grows on request.
#[derive(Debug, Default)]
pub struct CudaBuffer(Option<Allocation>);

impl CudaBuffer {
    /// Allocates memory; the values are unspecified.
    ///
    /// # Errors
    /// If the device has not enough memory.
    pub fn new(cuda: &Cuda, bytes: usize) -> Result<Self> {
        let mut buffer = Self::default();
        buffer.reserve(cuda, bytes)?;
        Ok(buffer)
    }

    /// A buffer that holds some values.
    ///
    /// # Errors
    /// If the device has not enough memory.
    pub fn with_values<T: NoUninit>(cuda: &Cuda, values: &[T]) -> Result<Self> {
        let mut buffer = Self::default();
        buffer.upload(cuda, values)?;
        Ok(buffer)
    }

    /// Grows to at least `bytes` bytes. If it has to grow, its values are lost.
    ///
    /// # Errors
    /// If the device has not enough memory; the buffer is empty then.
    pub fn reserve(&mut self, cuda: &Cuda, bytes: usize) -> Result<()> {
        if bytes <= self.bytes() {
            return Ok(());
        }
        // Freed first, so that the old and the new memory are never needed at once.
        self.0 = None;
        let ptr = cuda.driver().alloc(bytes)?;
        self.0 = Some(Allocation { driver: Arc::clone(cuda.driver()), ptr, bytes });
        Ok(())
    }

    /// Number of bytes.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |allocation| allocation.bytes)
    }

    /// The first byte; null if the buffer is empty.
    ///
    /// # Panics
    /// If the buffer belongs to another GPU than `cuda`.
    pub fn ptr(&self, cuda: &Cuda) -> DevicePtr {
        let Some(Allocation { driver, ptr, .. }) = &self.0 else { return DevicePtr::NULL };
        assert!(Arc::ptr_eq(driver, cuda.driver()), "memory of one GPU is used with another");
        *ptr
    }

    /// The bytes from `at` on.
    ///
    /// # Panics
    /// If there are fewer than `bytes`, or the buffer belongs to another GPU.
    fn range(&self, cuda: &Cuda, at: usize, bytes: usize) -> DevicePtr {
        let end = at.checked_add(bytes);
        assert!(
            end.is_some_and(|end| end <= self.bytes()),
            "{bytes} bytes at {at} of {}",
            self.bytes()
        );
        self.ptr(cuda).offset(at)
    }

    /// Copies values to the beginning of the buffer, which grows if it has to.
    ///
    /// # Errors
    /// If the device has not enough memory.
    ///
    /// # Panics
    /// If the buffer belongs to another GPU.
    pub fn upload<T: NoUninit>(&mut self, cuda: &Cuda, values: &[T]) -> Result<DevicePtr> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        self.reserve(cuda, bytes.len())?;
        let to = self.range(cuda, 0, bytes.len());
        if !bytes.is_empty() {
            // SAFETY: `range` found that the buffer has these bytes and belongs to this GPU.
            unsafe { cuda.submit(Work::Upload { to, bytes }) }?;
        }
        Ok(to)
    }

    /// Reads the values at the beginning of the buffer, after all work submitted before.
    ///
    /// # Errors
    /// If the device failed at something before.
    ///
    /// # Panics
    /// If the buffer has fewer values, or belongs to another GPU.
    pub fn read<T: Pod>(&self, cuda: &Cuda, out: &mut [T]) -> Result<()> {
        let out: &mut [u8] = bytemuck::cast_slice_mut(out);
        let from = self.range(cuda, 0, out.len());
        if out.is_empty() {
            return replay::finish(cuda.driver());
        }
        // SAFETY: `range` found that the buffer has these bytes and belongs to this GPU.
        unsafe { replay::read(cuda.driver(), from, out) }
    }

    /// Zeroes the first `bytes` bytes.
    ///
    /// # Errors
    /// If the device refuses.
    ///
    /// # Panics
    /// If the buffer has fewer bytes, or belongs to another GPU.
    pub fn zero(&mut self, cuda: &Cuda, bytes: usize) -> Result<()> {
        let at = self.range(cuda, 0, bytes);
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: `range` found that the buffer has these bytes and belongs to this GPU.
        unsafe { cuda.submit(Work::Zero { at, bytes }) }
    }

    /// Copies `bytes` bytes of another buffer, from its byte `from_at` on, to byte `at` of this one.
    ///
    /// # Errors
    /// If the device refuses.
    ///
    /// # Panics
    /// If a buffer has fewer bytes, or belongs to another GPU.
    pub(crate) fn copy_from(
        &mut self,
        cuda: &Cuda,
        at: usize,
        (from, from_at): (&Self, usize),
        bytes: usize,
    ) -> Result<()> {
        let (from, to) = (from.range(cuda, from_at, bytes), self.range(cuda, at, bytes));
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: `range` found that the buffers have these bytes and belong to this GPU. They are two
        // buffers, as one is borrowed mutably, so the ranges do not overlap.
        unsafe { cuda.submit(Work::Copy { from, to, bytes }) }
    }

    /// Copies the first half of the first `bytes` bytes to the second.
    ///
    /// # Errors
    /// If the device refuses.
    ///
    /// # Panics
    /// If the buffer has fewer bytes, or belongs to another GPU.
    pub(crate) fn copy_half(&mut self, cuda: &Cuda, bytes: usize) -> Result<()> {
        let (from, half) = (self.range(cuda, 0, bytes), bytes / 2);
        if half == 0 {
            return Ok(());
        }
        // SAFETY: `range` found that the buffer has both halves and belongs to this GPU.
        unsafe { cuda.submit(Work::Copy { from, to: from.offset(half), bytes: half }) }
    }
}

/// Numbers that an operation uploads; none by default.
#[derive(Debug, Default)]
pub(crate) struct Indices {
    values: Vec<u32>,
    buffer: CudaBuffer,
}

impl Indices {
    /// Uploads numbers in place of those before; memory is reused.
    pub(crate) fn upload(
        &mut self,
        cuda: &Cuda,
        values: impl IntoIterator<Item = u32>,
    ) -> Result<DevicePtr> {
        self.values.clear();
        self.values.extend(values);
        self.buffer.upload(cuda, &self.values)
    }
}
