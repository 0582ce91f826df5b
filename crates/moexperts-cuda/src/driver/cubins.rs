//! Compiled modules, cached on disk.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process,
    sync::OnceLock,
};

use moexperts_core::Result;

use super::nvrtc::{self, Nvrtc};
use crate::{environment::cache_folder, kernels::Module};

/// Compiles modules for one architecture, each only if no earlier run of the program has.
#[derive(Debug)]
pub(super) struct Cubins {
    architecture: String,
    /// The folder of the cache; `None` if nothing is cached.
    folder: Option<PathBuf>,
    /// The compiler; searched when something has to be compiled.
    nvrtc: OnceLock<Nvrtc>,
}

impl Cubins {
    /// For an architecture: `sm_90a`.
    pub(super) fn new(architecture: String, folder: Option<PathBuf>) -> Self {
        Self { architecture, folder, nvrtc: OnceLock::new() }
    }

    /// The folder of the cache: `cubin` in `$XDG_CACHE_HOME/moexperts` or `~/.cache/moexperts`.
    pub(super) fn default_folder() -> Option<PathBuf> {
        Some(cache_folder()?.join("moexperts").join("cubin"))
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

    /// Loads a module with `load`: from disk, or compiled now if it is not there or cannot be loaded.
    ///
    /// # Errors
    /// If the module cannot be compiled, or not be loaded then.
    pub(super) fn load<T>(&self, module: &Module, load: impl Fn(&[u8]) -> Result<T>) -> Result<T> {
        let file = self.file(module);
        if let Some(cubin) = file.as_ref().and_then(|file| fs::read(file).ok()) {
            match load(&cubin) {
                Ok(loaded) => return Ok(loaded),
                Err(error) => tracing::debug!(%error, "a cached cubin cannot be loaded"),
            }
        }
        load(&self.compile_to(module, file.as_deref())?)
    }

    /// Compiles a module and writes it to a file.
    fn compile_to(&self, module: &Module, file: Option<&Path>) -> Result<Vec<u8>> {
        tracing::info!(module = module.name(), architecture = self.architecture, "compiling");
        let cubin = self.nvrtc()?.compile(module, &self.architecture)?;
        if let Some(file) = file
            && let Err(error) = write_whole(file, &cubin)
        {
            // The next run compiles again; this one goes on.
            tracing::debug!(file = %file.display(), %error, "a cubin cannot be cached");
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

    /// The file of a module. Its name depends on everything that the cubin depends on.
    fn file(&self, module: &Module) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        let options = nvrtc::options(&self.architecture).join(" ");
        let hash = fnv_1a(&[&nvrtc::source(module), &options]);
        let name = module.name().trim_end_matches(".cu");
        Some(folder.join(format!("{name}-{}-{hash:016x}.cubin", self.architecture)))
    }
}

/// FNV-1a over some texts, each ended by a byte that is in none of them. It is the same in every version
/// of the compiler, as the name of a file on disk has to be.
fn fnv_1a(texts: &[&str]) -> u64 {
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Writes a file under another name and renames it, so that no other process reads half of it.
fn write_whole(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::fnv_1a;

    #[test]
    fn the_hash_is_fnv_1a_and_depends_on_where_a_text_ends() {
        assert_eq!(fnv_1a(&[]), 0xcbf2_9ce4_8422_2325);
        // The published hash of "foobar", then one more step for the end.
        let end = (0x8594_4171_f739_67e8_u64 ^ 0xff).wrapping_mul(0x100_0000_01b3);
        assert_eq!(fnv_1a(&["foobar"]), end);
        assert_ne!(fnv_1a(&["foo", "bar"]), fnv_1a(&["foob", "ar"]));
    }
}
