//! The folder of executables that `cargo xtask gpu-check` makes, as its programs read it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    peer::OURS,
    tools::{Context as _, Result},
};

/// What a pack says of its executables; `xtask/src/pack.rs` writes it.
#[derive(Debug, Deserialize)]
pub(crate) struct Pack {
    #[serde(skip)]
    folder: PathBuf,
    /// The commit they were built from.
    pub(crate) commit: String,
    /// The compiler.
    pub(crate) rustc: String,
}

impl Pack {
    /// The pack of a folder.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let file = folder.join("pack.json");
        let text = fs::read(&file).context(|| format!("no pack: {}", file.display()))?;
        let pack: Self = serde_json::from_slice(&text)
            .context(|| format!("{} is not that of a pack", file.display()))?;
        Ok(Self { folder: folder.to_owned(), ..pack })
    }

    /// This project's program.
    pub(crate) fn program(&self) -> PathBuf {
        self.folder.join(OURS)
    }
}
