//! The command line of `moexperts bench model`.

use std::num::NonZero;

use super::{
    common::{BenchArgs, MAX_BATCH, new_tokens, up_to},
    compile::CompileModes,
    load::LoadArgs,
};

/// Measures generation with a model.
///
/// Each row is one backend on a batch of random prompts: tokens a second of the prompts and of
/// what follows, all sequences together; GB/s over the weights a step reads, and that as a
/// fraction of the bandwidth measured in the same run; the most memory in RAM meanwhile, weights
/// included, or all the memory of the GPU that is in use at the end. The values are medians, and the
/// backends take turns.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  moexperts bench model
  moexperts bench model --model ./OLMoE-1B-7B-0924 --prompt-tokens 128 --batch 1,8
  moexperts bench model --compile none,default,max-autotune --compile-memory 8GB
  moexperts bench model --experts-implementation eager,grouped_mm --json model.json")]
pub struct BenchModelArgs {
    /// Tokens of each prompt, separated by commas.
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', default_value = "16,128,512")]
    pub(crate) prompt_tokens: Vec<NonZero<usize>>,

    /// Tokens to generate, at least 2: the first comes with the prompt.
    #[arg(long, value_name = "N", default_value = "32", value_parser = new_tokens)]
    pub(crate) new_tokens: usize,

    /// Sequences generated together, separated by commas.
    #[arg(
        long,
        value_name = "COUNTS",
        value_delimiter = ',',
        default_value = "1,4",
        value_parser = up_to::<MAX_BATCH>
    )]
    pub(crate) batch: Vec<NonZero<usize>>,

    /// Generations of each row.
    #[arg(long, value_name = "N", default_value = "3")]
    pub(crate) repetitions: NonZero<usize>,

    /// Chooses the prompts.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,

    #[command(flatten)]
    pub(crate) compile: CompileModes,

    #[command(flatten)]
    pub(crate) common: BenchArgs,

    #[command(flatten)]
    pub(crate) load: LoadArgs,
}
