//! The environment variables that are read.

use std::env;

use moexperts_cpu::ISA_VARIABLE;

/// An environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it does, and after a semicolon what holds without it.
    pub meaning: &'static str,
    /// What it is set to.
    pub value: VariableValue,
}

/// What an environment variable is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VariableValue {
    /// Nothing.
    NotSet,
    /// A secret, which is not told.
    Secret,
    /// This; what is not UTF-8 is replaced.
    Text(String),
}

impl Variable {
    /// Reads a variable that is no secret.
    pub fn read(name: &'static str, meaning: &'static str) -> Self {
        let value = env::var_os(name).map_or(VariableValue::NotSet, |value| {
            VariableValue::Text(value.to_string_lossy().into_owned())
        });
        Self { name, meaning, value }
    }

    fn secret(name: &'static str, meaning: &'static str) -> Self {
        let value = env::var_os(name).map_or(VariableValue::NotSet, |_| VariableValue::Secret);
        Self { name, meaning, value }
    }
}

/// Lists the variables that this library and its devices read.
pub fn environment() -> Vec<Variable> {
    vec![
        Variable::read(ISA_VARIABLE, "lowers the instruction set of the CPU's kernels"),
        Variable::read(
            "MOEXPERTS_NVRTC",
            "the file of NVRTC, which compiles the GPU's kernels; found",
        ),
        Variable::read("CUDA_VISIBLE_DEVICES", "the GPUs there are, in this order; all"),
        Variable::read("HF_HOME", "folder of the hub's cache and token; ~/.cache/huggingface"),
        Variable::read("HF_HUB_CACHE", "folder of downloaded models; hub in HF_HOME"),
        Variable::read("HF_ENDPOINT", "address of the hub; https://huggingface.co"),
        Variable::secret("HF_TOKEN", "access token for private and gated models"),
        Variable::read("HF_TOKEN_PATH", "file with the access token; token in HF_HOME"),
        Variable::read("HF_HUB_OFFLINE", "1 uses the cache alone and never the network"),
        Variable::read(
            "XDG_CACHE_HOME",
            "folder of caches: compiled kernels, what autotuning measured, the hub where HF_HOME \
             is not set; ~/.cache",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    // Tests may not set variables: cargo sets this one, and nobody the other.
    const SET: &str = "CARGO_MANIFEST_DIR";
    const NOT_SET: &str = "MOEXPERTS_NOBODY_SETS_THIS";

    #[test]
    fn a_secret_is_not_told() {
        let folder = env!("CARGO_MANIFEST_DIR").to_owned();
        assert_eq!(Variable::read(SET, "").value, VariableValue::Text(folder));
        assert_eq!(Variable::secret(SET, "").value, VariableValue::Secret);
        assert_eq!(Variable::read(NOT_SET, "").value, VariableValue::NotSet);
        assert_eq!(Variable::secret(NOT_SET, "").value, VariableValue::NotSet);
    }

    #[test]
    fn the_token_is_a_secret() {
        let told = |variable: &Variable| matches!(variable.value, VariableValue::Text(_));
        let variables = environment();
        let token = variables.iter().find(|variable| variable.name == "HF_TOKEN").unwrap();
        assert!(!told(token));
    }
}
