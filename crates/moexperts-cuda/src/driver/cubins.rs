//! Compiled modules, kept on disk.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    path::{Path, PathBuf},
    process,
    sync::OnceLock,
};

use moexperts_core::Result;

use super::nvrtc::{self, Nvrtc};
use crate::kernels::Module;

/// Compiles modules for one architecture, each once for all runs of the program.
#[derive(Debug)]
pub(super) struct Cubins {
    architecture: String,
    /// `None` if there is no folder to keep them in.
    folder: Option<PathBuf>,
    /// Found when something has to be compiled.
    nvrtc: OnceLock<Nvrtc>,
}

impl Cubins {
    /// For an architecture: `sm_90a`.
    pub(super) fn new(architecture: String, folder: Option<PathBuf>) -> Self {
        Self { architecture, folder, nvrtc: OnceLock::new() }
    }

    /// The folder they are kept in if nobody says another: `cubin` in `$XDG_CACHE_HOME/moexperts` or
    /// `~/.cache/moexperts`.
    pub(super) fn default_folder() -> Option<PathBuf> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
        Some(cache.join("moexperts").join("cubin"))
    }

    /// Whether a module is on disk.
    pub(super) fn has(&self, module: &Module) -> bool {
        self.file(module).is_some_and(|file| file.exists())
    }

    /// Puts a module on disk, if it is not there and there is a folder.
    ///
    /// # Errors
    /// If it cannot be compiled.
    pub(super) fn compile(&self, module: &Module) -> Result<()> {
        match self.file(module) {
            Some(file) if !file.exists() => self.compile_to(module, Some(&file)).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// What the driver loads for a module: what is on disk, if `load` takes it, else what is compiled
    /// now.
    ///
    /// # Errors
    /// If the module cannot be compiled; what `load` says of it then.
    pub(super) fn load<T>(&self, module: &Module, load: impl Fn(&[u8]) -> Result<T>) -> Result<T> {
        let file = self.file(module);
        if let Some(cubin) = file.as_ref().and_then(|file| fs::read(file).ok()) {
            match load(&cubin) {
                Ok(loaded) => return Ok(loaded),
                Err(error) => tracing::debug!(%error, "a kept cubin is not taken"),
            }
        }
        load(&self.compile_to(module, file.as_deref())?)
    }

    /// Compiles a module and keeps it in a file.
    fn compile_to(&self, module: &Module, file: Option<&Path>) -> Result<Vec<u8>> {
        tracing::info!(module = module.name(), architecture = self.architecture, "compiling");
        let cubin = self.nvrtc()?.compile(module, &self.architecture)?;
        if let Some(file) = file
            && let Err(error) = keep(file, &cubin)
        {
            // The next run compiles again, that is all.
            tracing::debug!(file = %file.display(), %error, "a cubin cannot be kept");
        }
        Ok(cubin)
    }

    /// The compiler.
    ///
    /// # Errors
    /// If it is not found.
    pub(super) fn nvrtc(&self) -> Result<&Nvrtc> {
        match self.nvrtc.get() {
            Some(nvrtc) => Ok(nvrtc),
            None => {
                let found = Nvrtc::find()?;
                Ok(self.nvrtc.get_or_init(|| found))
            }
        }
    }

    /// Where a module is kept; its name says everything that the cubin depends on.
    fn file(&self, module: &Module) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        let mut hasher = DefaultHasher::new();
        nvrtc::source(module).hash(&mut hasher);
        nvrtc::options(&self.architecture).hash(&mut hasher);
        let name = module.name().trim_end_matches(".cu");
        Some(folder.join(format!("{name}-{}-{:016x}.cubin", self.architecture, hasher.finish())))
    }
}

/// Writes a file at once, so that nobody reads half of it.
fn keep(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let part = file.with_extension(format!("{}.part", process::id()));
    let written = fs::File::create(&part).and_then(|mut file| file.write_all(bytes));
    let done = written.and_then(|()| fs::rename(&part, file));
    if done.is_err() {
        let _ = fs::remove_file(&part);
    }
    done
}
