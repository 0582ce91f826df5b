//! The command line of `moexperts bench sweep`.

use std::{num::NonZero, path::PathBuf};

use moexperts::{AnyDevice, CpuOptions, DeviceName, LoadOptions};

use super::{
    common::{MAX_BATCH, new_tokens, up_to},
    compile::CompileModes,
    device,
    load::{DTypeArg, HubArgs, load_options},
    shape::{LayerShape, Shapes},
};
use crate::error::BenchError;

/// Measures generation in every combination, for a report.
///
/// A combination is a device, a dtype, a batch, a length of the prompts, a number of new tokens, a way
/// to compile and a backend. Those that differ in the last two alone are measured together: each is
/// run once for what is made on first use and for its memory, and then they take turns, so that
/// whatever else the machine does hits all alike. Combinations that cannot run are listed with the
/// reason.
///
/// The folder gets `results.json`, which has every run and is replaced after each turn, and at the end
/// `results.csv`, `results.md` and `report.html`, a page that needs no network. Ctrl-C ends the sweep
/// and keeps what is done; --resume goes on.
///
/// The fraction of the limit is the least time the machine could take, divided by the median. The
/// least time is that to read the weights (of experts those that are hit) or to do their products,
/// whichever is longer, with the bandwidth and the peak measured in the same sweep.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  moexperts bench sweep --out sweep
  moexperts bench sweep --model ./OLMoE-1B-7B-0924 --batch 1,4 --seq 16,128 --out olmoe
  moexperts bench sweep --shape qwen1.5-moe --layers 4 --compile none,max-autotune --out layers
  moexperts bench sweep --shape qwen1.5-moe --layers 4 --compile none,max-autotune --out layers --resume")]
pub struct BenchSweepArgs {
    /// Sequences generated together, separated by commas.
    #[arg(
        long,
        value_name = "COUNTS",
        value_delimiter = ',',
        default_value = "1,4",
        value_parser = up_to::<MAX_BATCH>
    )]
    pub(crate) batch: Vec<NonZero<usize>>,

    /// Tokens of each prompt, separated by commas.
    #[arg(
        long,
        visible_alias = "prompt-tokens",
        value_name = "COUNTS",
        value_delimiter = ',',
        default_value = "16,128,512"
    )]
    pub(crate) seq: Vec<NonZero<usize>>,

    /// Tokens to generate, at least 2 (the first comes with the prompt), separated by commas.
    #[arg(
        long,
        value_name = "COUNTS",
        value_delimiter = ',',
        default_value = "16",
        value_parser = new_tokens
    )]
    pub(crate) new_tokens: Vec<usize>,

    /// The backends, separated by commas; `all` that are registered by default.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "all")]
    pub(crate) experts_implementation: Vec<String>,

    /// Generations of each combination that are timed.
    #[arg(long, value_name = "N", default_value = "5", value_parser = up_to::<MAX_REPETITIONS>)]
    pub(crate) repetitions: NonZero<usize>,

    /// Chooses the prompts, and the weights of a --shape.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,

    /// The folder for the results; made if it is not there.
    #[arg(long, value_name = "DIR", help_heading = "Results")]
    pub(crate) out: PathBuf,

    /// Goes on with the results in the folder: what is complete there is not measured again.
    #[arg(long, help_heading = "Results")]
    pub(crate) resume: bool,

    /// Puts figures beside the results that transformers' authors published of their backends,
    /// marked as such: they are of other hardware.
    #[arg(long, help_heading = "Results")]
    pub(crate) reference: bool,

    #[command(flatten)]
    pub(crate) compile: CompileModes,

    /// A folder with a model, or its id on the hub (`Qwen/Qwen1.5-MoE-A2.7B`), which is downloaded
    /// once; the model in the program by default.
    #[arg(long, value_name = "DIR|ID", help_heading = "Model")]
    pub(crate) model: Option<String>,

    /// A model of random weights with the sizes of `qwen1.5-moe`, `olmoe`, `qwen3-30b`, `mixtral` or
    /// H,I,E,K.
    #[arg(
        long,
        value_name = "SHAPE",
        value_parser = one_shape,
        conflicts_with = "model",
        requires = "layers",
        help_heading = "Model"
    )]
    pub(crate) shape: Option<LayerShape>,

    /// The layers of that model.
    #[arg(long, value_name = "N", requires = "shape", help_heading = "Model")]
    pub(crate) layers: Option<NonZero<usize>>,

    /// Element types of the weights, separated by commas; `auto` is as stored, and bf16 for a --shape.
    #[arg(
        long,
        value_name = "DTYPES",
        value_delimiter = ',',
        default_value = "auto",
        help_heading = "Model"
    )]
    pub(crate) dtype: Vec<DTypeArg>,

    /// Where to compute, separated by commas: `cpu`, `cuda`, `cuda:N`, or `auto`: the first GPU if
    /// there is one, else the CPU.
    #[arg(
        long,
        value_name = "DEVICES",
        value_delimiter = ',',
        default_value = "auto",
        value_parser = str::parse::<DeviceName>,
        help_heading = "Device"
    )]
    pub(crate) device: Vec<DeviceName>,

    /// Threads of the CPU to compute with; as many as the machine has by default.
    #[arg(long, value_name = "N", help_heading = "Device")]
    threads: Option<NonZero<usize>>,

    #[command(flatten)]
    hub: HubArgs,
}

/// The most generations of a combination: their work can be counted.
const MAX_REPETITIONS: usize = 1 << 20;

/// What stands for every registered backend.
const ALL: &str = "all";

impl BenchSweepArgs {
    /// Backends by name; none if all that are registered take part.
    pub(crate) fn backends(&self) -> &[String] {
        match self.experts_implementation.iter().any(|name| name == ALL) {
            true => &[],
            false => &self.experts_implementation,
        }
    }

    pub(crate) fn load_options(&self, dtype: DTypeArg) -> LoadOptions {
        load_options(dtype, &self.hub)
    }

    pub(crate) fn find(&self, device: DeviceName) -> Result<AnyDevice, BenchError> {
        device::find(device, CpuOptions { threads: self.threads, isa: None })
    }
}

fn one_shape(text: &str) -> Result<LayerShape, String> {
    let Shapes(mut shapes) = text.parse::<Shapes>().map_err(|error| error.to_string())?;
    match shapes.pop() {
        Some(shape) if shapes.is_empty() => Ok(shape),
        _ => Err("expected one shape".to_owned()),
    }
}
