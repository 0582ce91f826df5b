//! The command line of compiling.

use std::{fmt, str::FromStr};

use moexperts::{CompileMode, CompileOptions};

use crate::output::progress;

/// Ways to compile a model where several are measured.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Compile")]
pub struct CompileModes {
    /// Ways to compile the model, separated by commas: `none` (the default), `default`,
    /// `reduce-overhead`, `max-autotune`, `max-autotune-no-cudagraphs`.
    #[arg(
        long,
        value_name = "MODES",
        value_delimiter = ',',
        value_parser = str::parse::<Compiling>
    )]
    compile: Vec<Compiling>,

    #[command(flatten)]
    pub(crate) limits: CompileLimits,
}

/// What a compiled model has to be.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Compile")]
pub struct CompileLimits {
    /// Stops if the backend breaks the compiled graph into pieces; off by default.
    #[arg(long, requires = "compile")]
    fullgraph: bool,

    /// What copies of weights may take, where autotuning finds them faster than the weights in
    /// their file: `4GB`; none by default.
    #[arg(long, value_name = "BYTES", value_parser = byte_count, requires = "compile")]
    compile_memory: Option<usize>,
}

/// One of `--compile` where several are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compiling {
    /// Operation by operation.
    None,
    /// As a mode says.
    Mode(CompileMode),
}

impl CompileModes {
    /// Each as often as it was given; without any the model is not compiled.
    pub(crate) fn ways(&self) -> Vec<Compiling> {
        if self.compile.is_empty() { vec![Compiling::None] } else { self.compile.clone() }
    }
}

impl CompileLimits {
    /// What copies of weights may take.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.compile_memory.unwrap_or(0)
    }

    /// The options of a mode for some shapes.
    pub fn options(
        &self,
        mode: CompileMode,
        batch_sizes: Vec<usize>,
        prompt_tokens: Vec<usize>,
    ) -> CompileOptions {
        CompileOptions::new(mode)
            .fullgraph(self.fullgraph)
            .batch_sizes(batch_sizes)
            .prompt_tokens(prompt_tokens)
            .memory_bytes(self.memory_bytes())
            .progress(progress::bars())
    }
}

impl fmt::Display for Compiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::Mode(mode) => f.pad(mode.name()),
        }
    }
}

impl FromStr for Compiling {
    type Err = moexperts::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" { Ok(Self::None) } else { text.parse().map(Self::Mode) }
    }
}

/// `4GB`, `512 MiB`, `1000000`.
fn byte_count(text: &str) -> Result<usize, String> {
    let refused = || "expected bytes: 1000000, 512MiB, 4GB".to_owned();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let factor: u64 = match text[number.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(refused()),
    };
    let bytes = number.parse::<f64>().map_err(|_| refused())? * factor as f64;
    if (0.0..1e18).contains(&bytes) { Ok(bytes as usize) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units_or_none() {
        for (text, bytes) in
            [("0", 0), ("12", 12), ("4GB", 4_000_000_000), ("1.5 MiB", 3 << 19), ("2k", 2000)]
        {
            assert_eq!(byte_count(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "4 GBs", "-1", "1e400", "x4", "nan"] {
            assert!(byte_count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn compiling_reads_back() {
        for text in ["none", "default", "max-autotune"] {
            assert_eq!(text.parse::<Compiling>().unwrap().to_string(), text);
        }
        assert!("eager".parse::<Compiling>().is_err());
    }
}
