//! One safetensors file.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use half::{bf16, f16};
use moexperts_core::{DType, Matrix, MatrixLayout, Storage};
use safetensors::Dtype;

use super::{
    damaged,
    header::{self, Entry},
};
use crate::error::Result;

/// A file, and what the user was told of it.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) file: String,
    pub(super) storage: Arc<dyn Storage>,
    /// Whether the user was told that tensors of this file are copied.
    pub(super) copies_reported: AtomicBool,
}

impl Shard {
    /// The file and its tensors by name.
    pub(super) fn read(
        file: String,
        storage: Arc<dyn Storage>,
    ) -> Result<(Self, BTreeMap<String, Entry>)> {
        let entries = match header::read(storage.bytes()) {
            Ok(entries) => entries.into_iter().collect(),
            Err(problem) => return Err(damaged(file, problem)),
        };
        Ok((Self { file, storage, copies_reported: AtomicBool::new(false) }, entries))
    }

    /// The bytes of a tensor.
    pub(super) fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.storage.bytes()[entry.bytes.clone()]
    }

    /// Whether a tensor cannot be used where it lies: its elements are not aligned, or of a type that
    /// no kernel reads.
    pub(super) fn is_copied(&self, entry: &Entry) -> bool {
        let address = self.bytes(entry).as_ptr() as usize;
        let size = supported(entry.dtype).map_or(1, DType::size_bytes);
        entry.dtype == Dtype::F64 || !address.is_multiple_of(size)
    }

    /// A tensor of element type `dtype` as a matrix; it lies inside the file, as `header::read` has
    /// checked.
    pub(super) fn matrix(
        &self,
        name: &str,
        entry: &Entry,
        dtype: DType,
        [rows, cols]: [usize; 2],
    ) -> Result<Matrix> {
        if entry.dtype == Dtype::F64 {
            let values = self.bytes(entry).as_chunks().0.iter();
            let values = values.map(|&bytes| f64::from_le_bytes(bytes) as f32).collect();
            return Ok(Matrix::from_vec(rows, cols, values)?);
        }
        if !self.is_copied(entry) {
            let layout = MatrixLayout::row_major(entry.bytes.start, dtype, rows, cols);
            return Ok(Matrix::new(Arc::clone(&self.storage), layout)?);
        }
        if !self.copies_reported.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                file = self.file,
                tensor = name,
                "tensors are not aligned in their file and are copied to memory"
            );
        }
        let bytes = self.bytes(entry);
        let words = || bytes.as_chunks().0.iter().map(|&word| u16::from_le_bytes(word));
        let matrix = match dtype {
            DType::F32 => {
                let words = bytes.as_chunks().0.iter();
                Matrix::from_vec(rows, cols, words.map(|&word| f32::from_le_bytes(word)).collect())
            }
            DType::F16 => Matrix::from_vec(rows, cols, words().map(f16::from_bits).collect()),
            DType::Bf16 => Matrix::from_vec(rows, cols, words().map(bf16::from_bits).collect()),
        };
        Ok(matrix?)
    }
}

/// The element type as the rest of the program knows it; F64 is converted to F32.
pub(super) fn supported(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 | Dtype::F64 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::Bf16),
        _ => None,
    }
}
