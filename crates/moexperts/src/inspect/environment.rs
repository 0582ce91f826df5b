//! The environment variables that this library and its devices read.

use moexperts_core::Variable;

/// Lists them, by the crate that reads them.
pub fn environment() -> Vec<Variable> {
    let cuda = [
        Variable::new(
            "MOEXPERTS_NVRTC",
            "the file of NVRTC, which compiles the GPU's kernels; found",
        ),
        Variable::new("CUDA_VISIBLE_DEVICES", "the GPUs there are, in this order; all"),
    ];
    let hub = [
        Variable::new("HF_HOME", "folder of the hub's cache and token; ~/.cache/huggingface"),
        Variable::new("HF_HUB_CACHE", "folder of downloaded models; hub in HF_HOME"),
        Variable::new("HF_ENDPOINT", "address of the hub; https://huggingface.co"),
        Variable::new("HF_TOKEN", "access token for private and gated models").secret(),
        Variable::new("HF_TOKEN_PATH", "file with the access token; token in HF_HOME"),
        Variable::new("HF_HUB_OFFLINE", "1 uses the cache alone and never the network"),
        Variable::new(
            "XDG_CACHE_HOME",
            "folder of caches: compiled kernels, what autotuning measured, the hub where HF_HOME \
             is not set; ~/.cache",
        ),
    ];
    moexperts_cpu::VARIABLES.iter().copied().chain(cuda).chain(hub).collect()
}
