//! torch's own threads.
//!
//! torch divides its operations among the threads of an OpenMP runtime, which stay awake for a while
//! after each operation. A second set of threads would compete with them for the cores, so we compute on
//! theirs. The runtime is the one that torch's library is linked with; GNU's and LLVM's both export
//! `GOMP_parallel`.

use std::{
    ffi::c_void,
    fmt,
    sync::{Arc, OnceLock},
};

use libloading::Library;
use moexperts_cpu::HostThreads;
use pyo3::prelude::*;

/// `void GOMP_parallel(void (*fn)(void *), void *data, unsigned num_threads, unsigned flags)`.
type Parallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, u32, u32);

static OPENMP: OnceLock<Arc<OpenMp>> = OnceLock::new();

/// The runtime, if torch has one that can be shared.
pub(crate) fn host() -> Option<Arc<dyn HostThreads>> {
    OPENMP.get().map(|openmp| Arc::clone(openmp) as _)
}

/// An OpenMP runtime.
struct OpenMp {
    parallel: Parallel,
    /// Keeps the runtime loaded.
    _library: Library,
}

impl fmt::Debug for OpenMp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenMp")
    }
}

impl HostThreads for OpenMp {
    fn together(&self, threads: usize, work: &(dyn Fn() + Sync)) {
        extern "C" fn call(work: *mut c_void) {
            // SAFETY: `data` below, which lives until all threads have returned.
            let work = unsafe { *work.cast::<&(dyn Fn() + Sync)>() };
            work();
        }
        let mut data = work;
        let threads = u32::try_from(threads).unwrap_or(u32::MAX);
        // SAFETY: `GOMP_parallel` calls `call(data)` on its threads, this one among them, and
        // returns when all have; `work` does not panic, as the trait says.
        unsafe { (self.parallel)(call, (&raw mut data).cast(), threads, 0) };
    }
}

/// Computes on the threads of the OpenMP runtime that a loaded library is linked with.
///
/// Returns whether there is one. Without it, layers compute on threads of this crate.
#[pyfunction]
pub(crate) fn use_openmp_of(library: &str) -> bool {
    if OPENMP.get().is_some() {
        return true;
    }
    let Some(openmp) = find(library) else { return false };
    let _ = OPENMP.set(Arc::new(openmp));
    true
}

#[cfg(unix)]
fn find(library: &str) -> Option<OpenMp> {
    use libloading::os::unix;
    // Present in glibc's and in the BSDs' `dlfcn.h`: no library is loaded that is not there yet.
    #[cfg(target_os = "macos")]
    const RTLD_NOLOAD: i32 = 0x10;
    #[cfg(not(target_os = "macos"))]
    const RTLD_NOLOAD: i32 = 0x4;
    // SAFETY: the library is loaded already, so none of its code runs.
    let library = unsafe { unix::Library::open(Some(library), unix::RTLD_LAZY | RTLD_NOLOAD) };
    let library = Library::from(library.ok()?);
    // SAFETY: the symbol is a function of this type in every runtime that has it.
    let parallel = unsafe { *library.get::<Parallel>(b"GOMP_parallel\0").ok()? };
    Some(OpenMp { parallel, _library: library })
}

#[cfg(not(unix))]
fn find(_: &str) -> Option<OpenMp> {
    None
}
