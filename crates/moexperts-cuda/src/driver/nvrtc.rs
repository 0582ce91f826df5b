//! NVRTC, NVIDIA's compiler of CUDA C++, a library.
//!
//! It is loaded and bound here because it may be anywhere: in a toolkit, in a Python package, or in the
//! file that a variable names. cudarc's `nvrtc` takes no path, and panics where the library is missing;
//! what is needed of it are seven functions.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    fmt, fs,
    path::{Path, PathBuf},
    ptr,
};

use libloading::{Library, Symbol};
use moexperts_core::Result;

use crate::{
    environment::{CONDA_PREFIX, CUDA_HOME, CUDA_PATH, NVRTC, VIRTUAL_ENV},
    error::problem as device_problem,
    kernels::{Module, PRELUDE},
};

/// The library's names, newest first.
#[cfg(not(windows))]
const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
#[cfg(windows)]
const NAMES: [&str; 2] = ["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"];

/// `nvrtcProgram`.
type Program = *mut c_void;
/// `nvrtcResult`; 0 is success.
type Status = c_int;

/// A loaded NVRTC.
pub struct Nvrtc {
    library: Library,
    /// A library that it loads by name, and finds because it is loaded already.
    _builtins: Option<Library>,
    /// The file or the name by which it was found.
    path: PathBuf,
}

impl fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nvrtc").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Nvrtc {
    /// Finds the library: the file that `MOEXPERTS_NVRTC` names; else where the system looks for
    /// libraries, in the folders of a CUDA toolkit, and where Python packages bring it.
    ///
    /// # Errors
    /// [`Error::Device`](moexperts_core::Error::Device) that names every place.
    pub fn find() -> Result<Self> {
        if let Some(path) = NVRTC.get() {
            return Self::open(Path::new(&path)).map_err(|problem| {
                let path = path.display();
                device_problem(format!("cannot load NVRTC from {}=`{path}`: {problem}", NVRTC.name))
            });
        }
        let folders = folders();
        let here = NAMES.iter().map(PathBuf::from);
        let there = folders.iter().flat_map(|folder| NAMES.map(|name| folder.join(name)));
        for path in here.chain(there) {
            // An error here means the next place; only the last one is reported, with all places.
            if let Ok(found) = Self::open(&path) {
                tracing::debug!(path = %found.path.display(), "found NVRTC");
                return Ok(found);
            }
        }
        let folders: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
        Err(device_problem(format!(
            "NVRTC, the compiler of the kernels, was not found: no {} where the system looks for \
             libraries{}; install the CUDA toolkit or the Python package `nvidia-cuda-nvrtc`, or set {} \
             to the library's file",
            NAMES.map(|name| format!("`{name}`")).join(", "),
            if folders.is_empty() {
                String::new()
            } else {
                format!(", nor in {}", folders.join(", "))
            },
            NVRTC.name,
        )))
    }

    /// Loads the library from a file, or by its name.
    ///
    /// # Errors
    /// If it cannot be loaded, or is no NVRTC.
    fn open(path: &Path) -> Result<Self, libloading::Error> {
        // NVRTC loads its builtins by name, which fails if its folder is none that the system searches,
        // unless they are loaded already.
        let builtins = path.parent().and_then(builtins);
        // SAFETY: loading runs the initialisers of a library of NVIDIA's, found beside NVRTC by its name;
        // they may run at any time, on any thread.
        let builtins = builtins.and_then(|path| unsafe { Library::new(path) }.ok());
        // SAFETY: as above; the file is NVRTC by its name, or because the user says so.
        let library = unsafe { Library::new(path) }?;
        // SAFETY: the symbol is looked up to see whether this is NVRTC, and not used.
        unsafe { library.get::<*const c_void>(b"nvrtcGetCUBIN\0") }?;
        Ok(Self { library, _builtins: builtins, path: path.to_owned() })
    }

    /// Compiles a module for an architecture (`sm_90a`) into a cubin, which the driver loads.
    ///
    /// # Errors
    /// [`Error::Device`](moexperts_core::Error::Device) with the log of the compiler.
    pub fn compile(&self, module: &Module, architecture: &str) -> Result<Vec<u8>> {
        self.try_compile(module, architecture).map_err(|problem| {
            device_problem(format!(
                "`{}` cannot be compiled for {architecture} by {}: {problem}",
                module.name(),
                self.path.display()
            ))
        })
    }

    fn try_compile(&self, module: &Module, architecture: &str) -> Result<Vec<u8>, Problem> {
        let source = CString::new(source(module))?;
        let name = CString::new(module.name())?;
        let options = options(architecture).map(CString::new);
        let options = options.into_iter().collect::<Result<Vec<_>, _>>()?;
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let program = OwnProgram::new(self, &source, &name)?;
        // SAFETY: the signature is that of nvrtc.h. The program exists, and the options are as many strings
        // as said, which live until the call returns.
        let status = unsafe {
            let compile: Symbol<
                '_,
                unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status,
            > = self.library.get(b"nvrtcCompileProgram\0")?;
            compile(program.program, options.len() as c_int, options.as_ptr())
        };
        if status != 0 {
            let log = program.bytes(b"nvrtcGetProgramLogSize\0", b"nvrtcGetProgramLog\0")?;
            let log = String::from_utf8_lossy(&log).trim_end_matches('\0').trim().to_owned();
            return Err(Problem(format!("{}\n{log}", self.error(status))));
        }
        program.bytes(b"nvrtcGetCUBINSize\0", b"nvrtcGetCUBIN\0")
    }

    fn check(&self, status: Status) -> Result<(), Problem> {
        if status == 0 { Ok(()) } else { Err(Problem(self.error(status))) }
    }

    fn error(&self, status: Status) -> String {
        // SAFETY: the signature is that of nvrtc.h, which says that the result is a constant string.
        let text = unsafe {
            self.library
                .get::<unsafe extern "C" fn(Status) -> *const c_char>(b"nvrtcGetErrorString\0")
                .map(|text| CStr::from_ptr(text(status)).to_string_lossy().into_owned())
        };
        text.unwrap_or_else(|_| format!("error {status}"))
    }
}

/// The text of an error, before it is said which module and architecture it is about.
struct Problem(String);

impl<E: std::error::Error> From<E> for Problem {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A program, destroyed when it is dropped.
struct OwnProgram<'a> {
    nvrtc: &'a Nvrtc,
    program: Program,
}

impl<'a> OwnProgram<'a> {
    fn new(nvrtc: &'a Nvrtc, source: &CStr, name: &CStr) -> Result<Self, Problem> {
        let mut program: Program = ptr::null_mut();
        // SAFETY: the signature is that of nvrtc.h. It copies both strings, which end with 0, and reads no
        // headers, as there are 0.
        let status = unsafe {
            let create: Symbol<
                '_,
                unsafe extern "C" fn(
                    *mut Program,
                    *const c_char,
                    *const c_char,
                    c_int,
                    *const *const c_char,
                    *const *const c_char,
                ) -> Status,
            > = nvrtc.library.get(b"nvrtcCreateProgram\0")?;
            create(&mut program, source.as_ptr(), name.as_ptr(), 0, ptr::null(), ptr::null())
        };
        nvrtc.check(status)?;
        Ok(Self { nvrtc, program })
    }

    /// The bytes that the function `get` writes, as many as the function `size_of` says.
    fn bytes(&self, size_of: &[u8], get: &[u8]) -> Result<Vec<u8>, Problem> {
        let mut size = 0_usize;
        // SAFETY: the pairs of functions that are passed here have these signatures in nvrtc.h. The second
        // writes as many bytes as the first says, which is how long `bytes` is.
        unsafe {
            let size_of: Symbol<'_, unsafe extern "C" fn(Program, *mut usize) -> Status> =
                self.nvrtc.library.get(size_of)?;
            self.nvrtc.check(size_of(self.program, &mut size))?;
            let mut bytes = vec![0_u8; size];
            let get: Symbol<'_, unsafe extern "C" fn(Program, *mut c_char) -> Status> =
                self.nvrtc.library.get(get)?;
            self.nvrtc.check(get(self.program, bytes.as_mut_ptr().cast()))?;
            Ok(bytes)
        }
    }
}

impl Drop for OwnProgram<'_> {
    fn drop(&mut self) {
        // SAFETY: the signature is that of nvrtc.h; `self` owns the program.
        unsafe {
            let destroy: Result<Symbol<'_, unsafe extern "C" fn(*mut Program) -> Status>, _> =
                self.nvrtc.library.get(b"nvrtcDestroyProgram\0");
            if let Ok(destroy) = destroy {
                destroy(&mut self.program);
            }
        }
    }
}

/// The text of a module, after the prelude.
pub(super) fn source(module: &Module) -> String {
    let mut source = String::new();
    for (name, text) in PRELUDE.iter().chain(module.files) {
        source.push_str(&format!("#line 1 \"{name}\"\n{text}\n"));
    }
    source
}

/// The options that every module is compiled with.
pub(super) fn options(architecture: &str) -> [String; 2] {
    [format!("--gpu-architecture={architecture}"), "--std=c++17".to_owned()]
}

/// The file of the builtins in the folder of an NVRTC.
fn builtins(folder: &Path) -> Option<PathBuf> {
    let is_builtins = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| name.contains("nvrtc-builtins") && !name.contains(".alt."))
    };
    fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).find(is_builtins)
}

/// The folders that may hold the library, beside those that the system searches.
fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let toolkits =
        [CUDA_PATH, CUDA_HOME].into_iter().filter_map(|variable| variable.get()).map(PathBuf::from);
    for toolkit in toolkits.chain([PathBuf::from("/usr/local/cuda")]) {
        folders.extend(["lib64", "lib", "bin"].map(|folder| toolkit.join(folder)));
    }
    for environment in [VIRTUAL_ENV, CONDA_PREFIX].into_iter().filter_map(|variable| variable.get())
    {
        let python = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python"))
        };
        let library = fs::read_dir(Path::new(&environment).join("lib"));
        let pythons = library.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        for packages in pythons.filter(python).map(|python| python.join("site-packages/nvidia")) {
            folders.extend(["cu13/lib", "cuda_nvrtc/lib"].map(|folder| packages.join(folder)));
        }
    }
    folders.retain(|folder| folder.is_dir());
    folders
}
