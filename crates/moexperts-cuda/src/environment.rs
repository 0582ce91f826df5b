//! The environment variables that this crate reads.

use std::path::PathBuf;

use moexperts_core::Variable;

/// The file of NVRTC.
pub(crate) const NVRTC: Variable = Variable::new(
    "MOEXPERTS_NVRTC",
    "the file of NVRTC, the compiler of the CUDA kernels; else it is searched",
);

pub(crate) const CUDA_PATH: Variable =
    Variable::new("CUDA_PATH", "a CUDA toolkit, in which NVRTC is searched; else other places are");

pub(crate) const CUDA_HOME: Variable =
    Variable::new("CUDA_HOME", "a CUDA toolkit, in which NVRTC is searched; else other places are");

pub(crate) const VIRTUAL_ENV: Variable = Variable::new(
    "VIRTUAL_ENV",
    "an active Python environment, in which NVRTC is searched; else other places are",
);

pub(crate) const CONDA_PREFIX: Variable = Variable::new(
    "CONDA_PREFIX",
    "an active conda environment, in which NVRTC is searched; else other places are",
);

const XDG_CACHE_HOME: Variable = Variable::new(
    "XDG_CACHE_HOME",
    "the folder of caches, compiled CUDA kernels among them; else `~/.cache`",
);

const HOME: Variable =
    Variable::new("HOME", "the folder whose `.cache` holds caches; without it nothing is cached");

/// Every environment variable that this crate reads, and `CUDA_VISIBLE_DEVICES`, which NVIDIA's driver
/// reads.
pub const VARIABLES: &[Variable] = &[
    NVRTC,
    Variable::new(
        "CUDA_VISIBLE_DEVICES",
        "which GPUs NVIDIA's driver shows, and in which order; else all",
    ),
    CUDA_PATH,
    CUDA_HOME,
    VIRTUAL_ENV,
    CONDA_PREFIX,
    XDG_CACHE_HOME,
    HOME,
];

/// The user's folder of caches; `None` where no variable says where the user's files are.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let set = |variable: Variable| variable.get().filter(|value| !value.is_empty());
    let own = set(XDG_CACHE_HOME).map(PathBuf::from);
    own.or_else(|| Some(PathBuf::from(set(HOME)?).join(".cache")))
}
