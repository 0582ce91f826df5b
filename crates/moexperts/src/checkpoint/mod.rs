//! Weights in safetensors files, used where they lie.
//!
//! A [`Checkpoint`] knows the header of every file and gives out [`Matrix`] views into the mapped
//! bytes; nothing is read until a kernel touches it. It knows no model: the inventory of a model says
//! which tensors there should be, and of which shapes.

mod folder;
mod header;
pub(crate) mod index;
#[expect(unsafe_code, reason = "mapping a file is unsafe where other programs may write to it")]
mod mmap;
pub(crate) mod quantised;
mod shard;
mod similar;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use moexperts_core::{DType, Matrix, Storage};

use self::{
    folder::{broken_link, no_weights},
    header::Entry,
    index::{INDEX_FILE, SINGLE_FILE},
    mmap::MappedFile,
    shard::{Shard, supported},
};
pub(crate) use self::{
    folder::{require_folder, told},
    similar::similar_names,
};
use crate::{
    error::{Error, Result},
    warnings::Warnings,
};

const _: () = assert!(cfg!(target_endian = "little"), "safetensors files are little-endian");

/// The tensors of a model, in one file or in shards.
///
/// The index says which files there are, and the files which tensors: a tensor that lies in another
/// file than the index says is found, and one that only the index names is missing.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// What a missing tensor is missing from: the file or the index.
    file: String,
    shards: Vec<Arc<Shard>>,
    tensors: BTreeMap<String, Tensor>,
    /// Why a tensor of this name may be missing.
    absent: BTreeMap<String, String>,
    /// Contradictions between the files.
    warnings: Warnings,
}

#[derive(Debug, Clone)]
struct Tensor {
    shard: usize,
    entry: Entry,
    /// Its name in the file, where that is another.
    stored: Option<String>,
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
        let tensor = |(name, entry)| (name, Tensor { shard: 0, entry, stored: None });
        Ok(Self {
            file,
            shards: vec![Arc::new(shard)],
            tensors: entries.into_iter().map(tensor).collect(),
            absent: BTreeMap::new(),
            warnings: Warnings::default(),
        })
    }

    fn open_sharded(folder: &Path) -> Result<Self> {
        let path = folder.join(INDEX_FILE);
        let json = fs::read(&path).map_err(|source| Error::Io { path, source })?;
        let of_index = |problem| damaged(INDEX_FILE, problem);

        let mut shards: Vec<Arc<Shard>> = Vec::new();
        let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
        let (mut absent, mut warnings) = (BTreeMap::new(), Warnings::default());
        for (file, names) in index::read(&json).map_err(of_index)? {
            let path = folder.join(&file);
            if !path.exists() {
                let why = broken_link(&path).unwrap_or_else(|| "does not exist".to_owned());
                return Err(of_index(format!("shard `{file}` {why}")));
            }
            let storage = Arc::new(MappedFile::open(&path)?);
            let why = format!("the index says that `{file}` has it, and no shard has");
            absent.extend(names.into_iter().map(|name| (name, why.clone())));
            let (shard, entries) = Shard::read(file, storage)?;
            for (name, entry) in entries {
                let tensor = Tensor { shard: shards.len(), entry, stored: None };
                // The later file counts, as in transformers.
                if let Some(before) = tensors.insert(name, tensor) {
                    let before = &shards[before.shard].file;
                    warnings.push(format_args!(
                        "{INDEX_FILE}: tensors are in `{before}` and again in `{}`, which counts",
                        shard.file
                    ));
                }
            }
            shards.push(Arc::new(shard));
        }
        absent.retain(|name, _| !tensors.contains_key(name));
        Ok(Self { file: INDEX_FILE.to_owned(), shards, tensors, absent, warnings })
    }

    /// The file, or the index of several.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Contradictions between the files, and how they were resolved.
    pub fn warnings(&self) -> &Warnings {
        &self.warnings
    }

    /// The name of every tensor, whatever its element type, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether a tensor has to be copied to memory before it is used: it is stored as F64, or its
    /// elements are not aligned.
    pub fn is_copied(&self, tensor: &str) -> bool {
        let copied = |Tensor { shard, entry, .. }: &Tensor| self.shards[*shard].is_copied(entry);
        self.tensors.get(tensor).is_some_and(copied)
    }

    /// Whether a tensor is stored as F64, which is converted to F32.
    pub fn is_f64(&self, tensor: &str) -> bool {
        self.tensors.get(tensor).is_some_and(|tensor| tensor.entry.dtype == safetensors::Dtype::F64)
    }

    /// Gives tensors other names, unless there are tensors of those names; messages say the name that
    /// a file has.
    pub(crate) fn rename(&mut self, name_of: impl Fn(&str) -> Option<String>) {
        let new = |name: &String| {
            let new = name_of(name).filter(|new| !self.tensors.contains_key(new))?;
            Some((name.clone(), new))
        };
        let renamed: Vec<(String, String)> = self.tensors.keys().filter_map(new).collect();
        for (old, new) in renamed {
            if !self.tensors.contains_key(&new)
                && let Some(mut tensor) = self.tensors.remove(&old)
            {
                tensor.stored.get_or_insert(old);
                self.tensors.insert(new, tensor);
            }
        }
    }

    /// Says why a tensor may be missing.
    pub(crate) fn explain_missing(&mut self, tensor: &str, why: String) {
        self.absent.insert(tensor.to_owned(), why);
    }

    /// Whether two tensors [rows, cols] have the same values.
    ///
    /// # Errors
    /// As [`Checkpoint::matrix`], but for shapes that differ.
    pub(crate) fn are_equal(&self, a: &str, b: &str) -> Result<bool> {
        let (Some(first), Some(second)) = (self.tensors.get(a), self.tensors.get(b)) else {
            return Ok(false);
        };
        let (Ok(shape), true) =
            (<[usize; 2]>::try_from(&*first.entry.shape), first.entry.shape == second.entry.shape)
        else {
            return Ok(false);
        };
        let bytes = |tensor: &Tensor| self.shards[tensor.shard].bytes(&tensor.entry);
        if first.entry.dtype == second.entry.dtype && bytes(first) == bytes(second) {
            return Ok(true);
        }
        let (a, b) = (self.matrix(a, shape)?, self.matrix(b, shape)?);
        Ok((0..shape[0]).all(|row| a.row(row).to_f32() == b.row(row).to_f32()))
    }

    /// Whether there is a tensor of this name, usable or not.
    pub fn contains(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    /// The shape of a tensor, if there is one of this name.
    pub fn shape(&self, tensor: &str) -> Option<&[usize]> {
        self.tensors.get(tensor).map(|tensor| tensor.entry.shape.as_slice())
    }

    /// How many tensors there are of each element type, by its name in safetensors (`F8_E4M3`).
    pub fn element_types(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for Tensor { entry, .. } in self.tensors.values() {
            *counts.entry(entry.dtype.to_string()).or_default() += 1;
        }
        counts
    }

    /// Name, shape and element type of every tensor, sorted by name.
    ///
    /// Tensors of other element types than [`DType`] has are left out: checkpoints hold integer
    /// buffers that no forward pass reads. They are refused only where a model takes one. F64 counts
    /// as F32, which it is converted to.
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
        let Tensor { shard, entry, stored } =
            self.tensors.get(name).ok_or_else(|| self.missing_tensor(name))?;
        let shard = &self.shards[*shard];
        let name = stored.as_deref().unwrap_or(name);
        if entry.shape != shape {
            let problem = format!("has shape {:?}, expected {shape:?}", entry.shape);
            return Err(damaged(&shard.file, format!("tensor `{name}` {problem}")));
        }
        let Some(dtype) = supported(entry.dtype) else {
            let method = quantised::by_dtype(entry.dtype).map_or(String::new(), |method| {
                format!(": the weights are quantised ({method}); {}", quantised::way_out(method))
            });
            let problem = format!("has dtype {}, expected one of F32, F16, BF16", entry.dtype);
            return Err(damaged(&shard.file, format!("tensor `{name}` {problem}{method}")));
        };
        shard.matrix(name, entry, dtype, [rows, cols])
    }

    fn missing_tensor(&self, name: &str) -> Error {
        if let Some(method) = quantised::by_names(name, |part| self.contains(part)) {
            let way_out = quantised::way_out(method);
            let problem = format!("the weights are quantised ({method}); {way_out}");
            return damaged(&self.file, format!("missing tensor `{name}`: {problem}"));
        }
        if let Some(why) = self.absent.get(name) {
            return damaged(&self.file, format!("missing tensor `{name}`: {why}"));
        }
        let similar = similar::similar_names(name, self.tensors.keys().map(String::as_str));
        let similar: Vec<String> = similar.iter().map(|name| format!("`{name}`")).collect();
        let problem = match similar.as_slice() {
            [] => format!("missing tensor `{name}`"),
            names => format!("missing tensor `{name}`, similar names are {}", names.join(", ")),
        };
        damaged(&self.file, problem)
    }
}

fn damaged(file: impl Into<String>, problem: String) -> Error {
    Error::Checkpoint { file: file.into(), problem }
}
