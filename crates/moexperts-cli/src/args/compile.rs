//! The command line of compiling.

use moexperts::{CompileMode, CompileOptions};
use moexperts_bench::args::CompileLimits;

/// How the model is compiled.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Compile")]
pub(crate) struct CompileArgs {
    /// Compiles the model: `default`, `reduce-overhead`, `max-autotune` or
    /// `max-autotune-no-cudagraphs`; not at all by default.
    #[arg(long, value_name = "MODE", value_parser = str::parse::<CompileMode>)]
    pub(crate) compile: Option<CompileMode>,

    #[command(flatten)]
    pub(crate) limits: CompileLimits,
}

impl CompileArgs {
    /// The options for some shapes, if the model is to be compiled.
    pub(crate) fn options(
        &self,
        batch_sizes: Vec<usize>,
        prompt_tokens: Vec<usize>,
    ) -> Option<CompileOptions> {
        self.compile.map(|mode| self.limits.options(mode, batch_sizes, prompt_tokens))
    }
}
