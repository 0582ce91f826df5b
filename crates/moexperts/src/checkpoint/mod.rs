//! Weights in safetensors files, used where they lie.
//!
//! A [`Checkpoint`] knows the header of every file and gives out [`Matrix`] views into the mapped
//! bytes; nothing is read until a kernel touches it. It knows no model: the inventory of a model says
//! which tensors there should be, and of which shapes.

mod header;
pub(crate) mod index;
#[expect(unsafe_code, reason = "mapping a file is unsafe where other programs may write to it")]
mod mmap;
mod similar;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use half::{bf16, f16};
use moexperts_core::{DType, Matrix, MatrixLayout, Storage};
use safetensors::Dtype;

use self::{
    header::Entry,
    index::{INDEX_FILE, SINGLE_FILE},
    mmap::MappedFile,
};
use crate::error::{Error, Result};

const _: () = assert!(cfg!(target_endian = "little"), "safetensors files are little-endian");

/// Formats of weights that are common in model folders and not read.
const OTHER_FORMATS: [&str; 5] = ["bin", "pt", "pth", "gguf", "msgpack"];

/// The tensors of a model, in one file or in shards.
#[derive(Debug)]
pub struct Checkpoint {
    /// What a missing tensor is missing from: the file or the index.
    file: String,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Debug)]
struct Shard {
    file: String,
    storage: Arc<dyn Storage>,
    /// Whether the user was told that tensors of this file are copied.
    copies_reported: AtomicBool,
}

#[derive(Debug)]
struct Tensor {
    shard: usize,
    entry: Entry,
}

impl Checkpoint {
    /// Opens `model.safetensors` of a folder, or else the shards that its
    /// `model.safetensors.index.json` names.
    ///
    /// Headers are read and checked; the weights are mapped and read when they are used. The files
    /// must not be changed or truncated while the checkpoint or a matrix of it is alive: the
    /// system ends a program that reads a mapped page which is gone.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder or a file cannot be read, [`Error::Checkpoint`] if there are no
    /// weights or they are damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        require_folder(folder)?;
        if folder.join(SINGLE_FILE).exists() {
            let storage = Arc::new(MappedFile::open(&folder.join(SINGLE_FILE))?);
            return Self::from_storage(SINGLE_FILE, storage);
        }
        if folder.join(INDEX_FILE).exists() {
            return Self::open_sharded(folder);
        }
        Err(damaged(folder.display().to_string(), no_weights(folder)))
    }

    /// Reads one safetensors file that is in memory; `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the file is damaged.
    pub fn from_storage(file: impl Into<String>, storage: Arc<dyn Storage>) -> Result<Self> {
        let file = file.into();
        let (shard, entries) = Shard::read(file.clone(), storage)?;
        let tensors = entries.into_iter().map(|(name, entry)| (name, Tensor { shard: 0, entry }));
        Ok(Self { file, shards: vec![shard], tensors: tensors.collect() })
    }

    fn open_sharded(folder: &Path) -> Result<Self> {
        let path = folder.join(INDEX_FILE);
        let json = fs::read(&path).map_err(|source| Error::Io { path, source })?;
        let of_index = |problem| damaged(INDEX_FILE, problem);

        let mut shards = Vec::new();
        let mut tensors = BTreeMap::new();
        for (file, names) in index::read(&json).map_err(of_index)? {
            let path = folder.join(&file);
            if !path.exists() {
                return Err(of_index(format!("shard `{file}` does not exist")));
            }
            let storage = Arc::new(MappedFile::open(&path)?);
            let (shard, mut entries) = Shard::read(file, storage)?;
            for name in names {
                let Some(entry) = entries.remove(&name) else {
                    return Err(of_index(format!("tensor `{name}` is not in `{}`", shard.file)));
                };
                tensors.insert(name, Tensor { shard: shards.len(), entry });
            }
            shards.push(shard);
        }
        Ok(Self { file: INDEX_FILE.to_owned(), shards, tensors })
    }

    /// Whether there is a tensor of this name, usable or not.
    pub fn contains(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    /// The shape of a tensor, if there is one of this name.
    pub fn shape(&self, tensor: &str) -> Option<&[usize]> {
        self.tensors.get(tensor).map(|tensor| tensor.entry.shape.as_slice())
    }

    /// Name, shape and element type of every tensor, sorted by name.
    ///
    /// Tensors of other element types than [`DType`] has are left out: checkpoints hold integer
    /// buffers that no forward pass reads. They are refused only where a model takes one.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize], DType)> {
        self.tensors.iter().filter_map(|(name, Tensor { entry, .. })| {
            Some((name.as_str(), entry.shape.as_slice(), supported(entry.dtype)?))
        })
    }

    /// Bytes of all files.
    pub fn size_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.storage.bytes().len() as u64).sum()
    }

    /// A tensor `[rows, cols]`, in place.
    ///
    /// Where a file places the elements so that they are not aligned for their type, they are
    /// copied to memory, with a warning.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if there is no such tensor, or it has another shape or an element
    /// type that is not supported.
    pub fn matrix(&self, tensor: &str, shape: [usize; 2]) -> Result<Matrix> {
        self.view(tensor, &shape, shape)
    }

    /// A tensor `[n, rows, cols]` as the matrix `[n * rows, cols]`: the `n` matrices one below the
    /// other, in place like [`Checkpoint::matrix`].
    ///
    /// # Errors
    /// As [`Checkpoint::matrix`].
    pub fn stack(&self, tensor: &str, shape: [usize; 3]) -> Result<Matrix> {
        let [n, rows, cols] = shape;
        // A product that overflows is no shape a file can have, and `view` refuses it.
        self.view(tensor, &shape, [n.saturating_mul(rows), cols])
    }

    /// A tensor `[n, …]` as the matrix `[n, values of one]`, in place like [`Checkpoint::matrix`].
    ///
    /// # Errors
    /// As [`Checkpoint::matrix`].
    pub fn filters(&self, tensor: &str, shape: &[usize]) -> Result<Matrix> {
        let (n, one) = shape.split_first().unwrap_or((&1, &[]));
        let values = one.iter().fold(1, |values: usize, &size| values.saturating_mul(size));
        self.view(tensor, shape, [*n, values])
    }

    /// The element type of a tensor, if there is one of this name and it is supported.
    pub fn dtype(&self, tensor: &str) -> Option<DType> {
        supported(self.tensors.get(tensor)?.entry.dtype)
    }

    /// A tensor `[len]`, widened to f32.
    ///
    /// # Errors
    /// As [`Checkpoint::matrix`].
    pub fn vector(&self, tensor: &str, len: usize) -> Result<Vec<f32>> {
        self.values(tensor, &[len])
    }

    /// All values of a tensor of any shape, widened to f32.
    ///
    /// # Errors
    /// As [`Checkpoint::matrix`].
    pub fn values(&self, tensor: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let len = shape.iter().fold(1, |len: usize, &size| len.saturating_mul(size));
        Ok(self.view(tensor, shape, [1, len])?.to_f32())
    }

    /// A tensor of exactly `shape`, as a matrix of as many elements.
    fn view(&self, name: &str, shape: &[usize], [rows, cols]: [usize; 2]) -> Result<Matrix> {
        let Tensor { shard, entry } =
            self.tensors.get(name).ok_or_else(|| self.missing_tensor(name))?;
        let shard = &self.shards[*shard];
        if entry.shape != shape {
            let problem = format!("has shape {:?}, expected {shape:?}", entry.shape);
            return Err(damaged(&shard.file, format!("tensor `{name}` {problem}")));
        }
        let Some(dtype) = supported(entry.dtype) else {
            let problem = format!("has dtype {}, expected one of F32, F16, BF16", entry.dtype);
            return Err(damaged(&shard.file, format!("tensor `{name}` {problem}")));
        };
        shard.matrix(name, MatrixLayout::row_major(entry.bytes.start, dtype, rows, cols))
    }

    fn missing_tensor(&self, name: &str) -> Error {
        let similar = similar::similar_names(name, self.tensors.keys().map(String::as_str));
        let similar: Vec<String> = similar.iter().map(|name| format!("`{name}`")).collect();
        let problem = match similar.as_slice() {
            [] => format!("missing tensor `{name}`"),
            names => format!("missing tensor `{name}`, similar names are {}", names.join(", ")),
        };
        damaged(&self.file, problem)
    }
}

impl Shard {
    fn read(file: String, storage: Arc<dyn Storage>) -> Result<(Self, BTreeMap<String, Entry>)> {
        let entries = match header::read(storage.bytes()) {
            Ok(entries) => entries.into_iter().collect(),
            Err(problem) => return Err(damaged(file, problem)),
        };
        Ok((Self { file, storage, copies_reported: AtomicBool::new(false) }, entries))
    }

    /// `layout` lies inside the file, as `header::read` has checked.
    fn matrix(&self, name: &str, layout: MatrixLayout) -> Result<Matrix> {
        let address = self.storage.bytes().as_ptr() as usize + layout.offset_bytes;
        if address.is_multiple_of(layout.dtype.size_bytes()) {
            return Ok(Matrix::new(Arc::clone(&self.storage), layout)?);
        }
        if !self.copies_reported.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                file = self.file,
                tensor = name,
                "tensors are not aligned in their file and are copied to memory"
            );
        }
        self.copied(layout)
    }

    fn copied(
        &self,
        MatrixLayout { offset_bytes, dtype, rows, cols, .. }: MatrixLayout,
    ) -> Result<Matrix> {
        let bytes = &self.storage.bytes()[offset_bytes..][..rows * cols * dtype.size_bytes()];
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

/// The element type as the rest of the program knows it.
fn supported(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::Bf16),
        _ => None,
    }
}

/// Refuses a path that is not a folder, before a file below it is blamed.
pub(crate) fn require_folder(path: &Path) -> Result<()> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(());
    }
    Err(failed(io::Error::new(io::ErrorKind::NotADirectory, "not a directory")))
}

fn no_weights(folder: &Path) -> String {
    let problem = format!("no weights, neither `{SINGLE_FILE}` nor `{INDEX_FILE}` is there");
    let other = |name: &String| {
        Path::new(name)
            .extension()
            .is_some_and(|extension| OTHER_FORMATS.iter().any(|&other| extension == other))
    };
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    match names.filter_map(|entry| entry.file_name().into_string().ok()).filter(other).min() {
        Some(name) => {
            format!("{problem}; `{name}` is of another format, only safetensors are read")
        }
        None => problem,
    }
}

fn damaged(file: impl Into<String>, problem: String) -> Error {
    Error::Checkpoint { file: file.into(), problem }
}
