//! How a model is compiled.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use crate::{
    error::{Error, Result},
    progress::Progress,
};

/// What compiling does, by the names of `torch.compile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum CompileMode {
    /// A plan: fused operations, no dispatch and no allocation in a step.
    #[default]
    Default,
    /// A plan; on a GPU captured as a graph.
    ReduceOverhead,
    /// Tries settings of the kernels on the real weights and shapes and keeps the fastest; on a GPU
    /// also a graph.
    MaxAutotune,
    /// The same without the graph.
    MaxAutotuneNoCudagraphs,
}

impl CompileMode {
    /// Every mode.
    pub const ALL: [Self; 4] =
        [Self::Default, Self::ReduceOverhead, Self::MaxAutotune, Self::MaxAutotuneNoCudagraphs];

    /// The name as users type it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::ReduceOverhead => "reduce-overhead",
            Self::MaxAutotune => "max-autotune",
            Self::MaxAutotuneNoCudagraphs => "max-autotune-no-cudagraphs",
        }
    }

    /// Whether kernels are measured.
    pub const fn autotunes(self) -> bool {
        matches!(self, Self::MaxAutotune | Self::MaxAutotuneNoCudagraphs)
    }

    /// Whether a GPU captures a graph.
    pub const fn captures_graph(self) -> bool {
        matches!(self, Self::ReduceOverhead | Self::MaxAutotune)
    }
}

impl fmt::Display for CompileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for CompileMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == text).ok_or_else(|| Error::Option {
            option: "compile",
            got: format!("`{text}`"),
            expected: "one of `default`, `reduce-overhead`, `max-autotune`, \
                       `max-autotune-no-cudagraphs`"
                .to_owned(),
        })
    }
}

/// How a model is compiled.
#[derive(Clone)]
#[non_exhaustive]
pub struct CompileOptions {
    /// What compiling does.
    pub mode: CompileMode,
    /// Whether every forward has to be one piece, that is, no backend may read on the host which
    /// experts were hit. An error otherwise.
    pub fullgraph: bool,
    /// Numbers of sequences that plans are made for at once; others follow at their first forward.
    pub batch_sizes: Vec<usize>,
    /// Tokens of a prompt, for each of those, that plans are made for at once.
    pub prompt_tokens: Vec<usize>,
    /// Bytes that copies of weights may take, where autotuning finds them faster than the weights
    /// in their file.
    pub memory_bytes: usize,
    /// The folder of what autotuning has measured; `autotune` in `$XDG_CACHE_HOME/moexperts` or
    /// `~/.cache/moexperts` if not set.
    pub cache_dir: Option<PathBuf>,
    /// Is told how autotuning goes.
    pub progress: Arc<dyn Progress>,
}

impl Default for CompileOptions {
    fn default() -> Self {
        Self {
            mode: CompileMode::Default,
            fullgraph: false,
            batch_sizes: vec![1],
            prompt_tokens: Vec::new(),
            memory_bytes: 0,
            cache_dir: None,
            progress: Arc::new(()),
        }
    }
}

impl CompileOptions {
    /// A mode, for decode steps of one sequence.
    pub fn new(mode: CompileMode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// Sets [`fullgraph`](field@Self::fullgraph).
    #[must_use]
    pub fn fullgraph(mut self, fullgraph: bool) -> Self {
        self.fullgraph = fullgraph;
        self
    }

    /// Sets [`batch_sizes`](field@Self::batch_sizes).
    #[must_use]
    pub fn batch_sizes(mut self, batch_sizes: Vec<usize>) -> Self {
        self.batch_sizes = batch_sizes;
        self
    }

    /// Sets [`prompt_tokens`](field@Self::prompt_tokens).
    #[must_use]
    pub fn prompt_tokens(mut self, prompt_tokens: Vec<usize>) -> Self {
        self.prompt_tokens = prompt_tokens;
        self
    }

    /// Sets [`memory_bytes`](field@Self::memory_bytes).
    #[must_use]
    pub fn memory_bytes(mut self, memory_bytes: usize) -> Self {
        self.memory_bytes = memory_bytes;
        self
    }

    /// Sets [`cache_dir`](field@Self::cache_dir).
    #[must_use]
    pub fn cache_dir(mut self, cache_dir: impl Into<PathBuf>) -> Self {
        self.cache_dir = Some(cache_dir.into());
        self
    }

    /// Sets [`progress`](field@Self::progress).
    #[must_use]
    pub fn progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }
}

impl fmt::Debug for CompileOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompileOptions")
            .field("mode", &self.mode)
            .field("fullgraph", &self.fullgraph)
            .field("batch_sizes", &self.batch_sizes)
            .field("prompt_tokens", &self.prompt_tokens)
            .field("memory_bytes", &self.memory_bytes)
            .field("cache_dir", &self.cache_dir)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for mode in CompileMode::ALL {
            assert_eq!(mode.to_string().parse::<CompileMode>().unwrap(), mode);
        }
        assert_eq!(
            "fast".parse::<CompileMode>().unwrap_err().to_string(),
            "option `compile` is `fast`, expected one of `default`, `reduce-overhead`, \
             `max-autotune`, `max-autotune-no-cudagraphs`"
        );
    }
}
