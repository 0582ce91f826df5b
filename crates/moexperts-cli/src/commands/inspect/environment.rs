//! The environment variables the program reads.

use std::env;

use moexperts::cpu::ISA_VARIABLE;

use crate::LOG_VARIABLE;

/// A variable and what it does.
struct Variable {
    name: &'static str,
    meaning: &'static str,
    is_secret: bool,
}

const fn variable(name: &'static str, meaning: &'static str) -> Variable {
    Variable { name, meaning, is_secret: false }
}

const VARIABLES: [Variable; 11] = [
    variable(ISA_VARIABLE, "lowers the instruction set of the CPU's kernels"),
    variable("MOEXPERTS_NVRTC", "the file of NVRTC, which compiles the GPU's kernels; found"),
    variable("CUDA_VISIBLE_DEVICES", "the GPUs there are, in this order; all"),
    variable("HF_HOME", "folder of the hub's cache and token; ~/.cache/huggingface"),
    variable("HF_HUB_CACHE", "folder of downloaded models; hub in HF_HOME"),
    variable("HF_ENDPOINT", "address of the hub; https://huggingface.co"),
    Variable {
        name: "HF_TOKEN",
        meaning: "access token for private and gated models",
        is_secret: true,
    },
    variable("HF_TOKEN_PATH", "file with the access token; token in HF_HOME"),
    variable("HF_HUB_OFFLINE", "1 uses the cache alone and never the network"),
    variable(
        "XDG_CACHE_HOME",
        "folder of caches: compiled kernels, what autotuning measured, the hub where HF_HOME is not \
         set; ~/.cache",
    ),
    variable(LOG_VARIABLE, "what is logged to standard error, as moexperts=debug; warn"),
];

/// A line a variable: its value, what it does, and its default.
pub(super) fn variables() -> String {
    super::table(VARIABLES.map(|Variable { name, meaning, is_secret }| {
        let value = match env::var_os(name) {
            None => "not set".to_owned(),
            Some(_) if is_secret => "set, not shown".to_owned(),
            Some(value) => format!("`{}`", value.display()),
        };
        (name, format!("{value}: {meaning}"))
    }))
}
