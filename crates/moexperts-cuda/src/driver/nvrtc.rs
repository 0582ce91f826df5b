//! NVRTC, the compiler that comes as a library.

use std::{
    env,
    ffi::{CStr, CString, c_char, c_int, c_void},
    fmt, fs,
    path::{Path, PathBuf},
    ptr,
};

use libloading::{Library, Symbol};
use moexperts_core::Result;

use crate::{
    cuda::Cuda,
    kernels::{Module, PRELUDE},
};

/// The file of the library, for who has it somewhere else.
const VARIABLE: &str = "MOEXPERTS_NVRTC";

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
    /// What it loads itself, kept where it finds it.
    _builtins: Option<Library>,
    /// Where it was found.
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
        if let Some(path) = env::var_os(VARIABLE) {
            return Self::open(Path::new(&path)).map_err(|problem| {
                let path = path.display();
                Cuda::problem(format!("cannot load NVRTC from {VARIABLE}=`{path}`: {problem}"))
            });
        }
        let folders = folders();
        let here = NAMES.iter().map(PathBuf::from);
        let there = folders.iter().flat_map(|folder| NAMES.map(|name| folder.join(name)));
        for path in here.chain(there) {
            // One that is not there is no error while there are other places.
            if let Ok(found) = Self::open(&path) {
                tracing::debug!(path = %found.path.display(), "found NVRTC");
                return Ok(found);
            }
        }
        let folders: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
        Err(Cuda::problem(format!(
            "NVRTC, the compiler of the kernels, was not found: looked for {} where the system looks \
             for libraries{}; install the CUDA toolkit or the Python package `nvidia-cuda-nvrtc`, or \
             set {VARIABLE} to the library's file",
            NAMES.map(|name| format!("`{name}`")).join(", "),
            if folders.is_empty() {
                String::new()
            } else {
                format!(", and in {}", folders.join(", "))
            },
        )))
    }

    /// Loads the library from a file, or by its name.
    ///
    /// # Errors
    /// If it cannot be loaded, or is no NVRTC.
    fn open(path: &Path) -> Result<Self, libloading::Error> {
        // It looks for its builtins by name alone, so they have to be there already where its own
        // folder is not one the system looks into.
        let builtins = path.parent().and_then(builtins);
        // SAFETY: NVIDIA's libraries may be loaded at any time, from any thread.
        let builtins = builtins.and_then(|path| unsafe { Library::new(path) }.ok());
        // SAFETY: as above.
        let library = unsafe { Library::new(path) }?;
        // SAFETY: only looked up, to see whether this is NVRTC.
        unsafe { library.get::<*const c_void>(b"nvrtcGetCUBIN\0") }?;
        Ok(Self { library, _builtins: builtins, path: path.to_owned() })
    }

    /// Compiles a module for an architecture (`sm_90a`): what the driver loads.
    ///
    /// # Errors
    /// [`Error::Device`](moexperts_core::Error::Device) with what the compiler says.
    pub fn compile(&self, module: &Module, architecture: &str) -> Result<Vec<u8>> {
        self.try_compile(module, architecture).map_err(|problem| {
            Cuda::problem(format!(
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
        // SAFETY: the signature is that of nvrtc.h, and the options live until it returns.
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
        // SAFETY: the signature is that of nvrtc.h; what it returns is a constant string.
        let text = unsafe {
            self.library
                .get::<unsafe extern "C" fn(Status) -> *const c_char>(b"nvrtcGetErrorString\0")
                .map(|text| CStr::from_ptr(text(status)).to_string_lossy().into_owned())
        };
        text.unwrap_or_else(|_| format!("error {status}"))
    }
}

/// What went wrong, before it is known to whom it is told.
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
        // SAFETY: the signature is that of nvrtc.h; it copies the strings, and there are no headers.
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

    /// What two functions give, of which the first says how many bytes the second writes.
    fn bytes(&self, size_of: &[u8], get: &[u8]) -> Result<Vec<u8>, Problem> {
        let mut size = 0_usize;
        // SAFETY: the signatures are those of nvrtc.h, which all these pairs share; the second writes
        // as many bytes as the first has said.
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
        // SAFETY: the signature is that of nvrtc.h, and nobody else has the program.
        unsafe {
            let destroy: Result<Symbol<'_, unsafe extern "C" fn(*mut Program) -> Status>, _> =
                self.nvrtc.library.get(b"nvrtcDestroyProgram\0");
            if let Ok(destroy) = destroy {
                destroy(&mut self.program);
            }
        }
    }
}

/// The text of a module, with what comes before every module.
pub(super) fn source(module: &Module) -> String {
    let mut source = String::new();
    for (name, text) in PRELUDE.iter().chain(module.files) {
        source.push_str(&format!("#line 1 \"{name}\"\n{text}\n"));
    }
    source
}

/// How every module is compiled.
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

/// The folders that may hold the library, beside those the system looks into.
fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let toolkits =
        ["CUDA_PATH", "CUDA_HOME"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    for toolkit in toolkits.chain([PathBuf::from("/usr/local/cuda")]) {
        folders.extend(["lib64", "lib", "bin"].map(|folder| toolkit.join(folder)));
    }
    for environment in ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(env::var_os) {
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
