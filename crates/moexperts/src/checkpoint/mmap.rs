//! A file mapped into memory; the only `unsafe` of this crate.

use std::{fs::File, path::Path};

use memmap2::Mmap;
use moexperts_core::Storage;

use crate::error::{Error, Result};

/// A whole file, read by the system page by page as it is touched.
#[derive(Debug)]
pub(super) struct MappedFile(Mmap);

impl MappedFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        // SAFETY: the file is opened and mapped for reading alone, so this process never writes to it,
        // and `Mmap` keeps the mapping for as long as its bytes are borrowed. That no other process
        // writes to the file or cuts it off meanwhile cannot be checked; the documentation of
        // `Checkpoint::open` demands it.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(Self(map))
    }
}

impl Storage for MappedFile {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}
