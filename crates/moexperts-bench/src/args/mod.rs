//! The command line of `moexperts bench`.

use std::{fmt, num::NonZero, path::PathBuf, str::FromStr, time::Duration};

use clap::{Subcommand, ValueEnum};
use moexperts::DType;

use super::{
    BenchReportArgs, BenchSweepArgs, CompileLimits, Compiling, DeviceArgs, LoadArgs, shape::Shapes,
};

/// The longest side of an image: its pixels can be counted and held.
const MAX_SIDE: usize = 1 << 13;

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    Layer(BenchLayerArgs),
    Model(BenchModelArgs),
    Vision(BenchVisionArgs),
    Sweep(BenchSweepArgs),
    Report(BenchReportArgs),
}

/// Measures experts layers of random weights.
///
/// Each row is one backend on T tokens: the median time of several runs with the range from the
/// 10th to the 90th percentile, GB/s over the bytes of the experts hit, GFLOP/s, and the fraction
/// of what the machine can do at most. That limit is measured in the same run, with the same
/// threads: the time to read those bytes, or to do those multiplications, whichever is longer. Of a
/// GPU, multiplications are set against those of its linear layer with 8192 rows, inputs and
/// outputs, which is no limit of the machine.
///
/// The backends take turns, each time with other experts, so that none finds its weights in a
/// cache and whatever else the machine does hits all alike.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  moexperts bench layer --shape olmoe
  moexperts bench layer --shape mixtral,2048,1024,32,4 --dtype bf16,f16 --tokens 1,64,512
  moexperts bench layer --experts-implementation eager,grouped_mm --routing zipf --json layer.json")]
pub(crate) struct BenchLayerArgs {
    /// The layers, separated by commas: `qwen1.5-moe`, `olmoe`, `qwen3-30b`, `mixtral`,
    /// `gpt-oss-20b`, `deepseek-v3` or H,I,E,K.
    #[arg(long, value_name = "SHAPES", default_value = "qwen1.5-moe")]
    pub(crate) shape: Shapes,

    /// Element types of the weights, separated by commas: `bf16`, `f16`, `f32`.
    #[arg(long, value_name = "DTYPES", value_delimiter = ',', default_value = "bf16")]
    pub(crate) dtype: Vec<DType>,

    /// Numbers of tokens (T), separated by commas.
    #[arg(
        long,
        value_name = "COUNTS",
        value_delimiter = ',',
        default_value = "1,2,4,8,16,32,64,128,256,512,1024,2048"
    )]
    pub(crate) tokens: Vec<NonZero<usize>>,

    /// Which experts the tokens choose.
    #[arg(long, value_name = "ROUTING", default_value = "uniform")]
    pub(crate) routing: RoutingKind,

    /// Chooses the weights, the tokens and their experts.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,

    /// The time each backend is measured for in a row: at least five runs, or three where a run
    /// takes much longer than that.
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = seconds)]
    pub(crate) time: Duration,

    #[command(flatten)]
    pub(crate) common: BenchArgs,

    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

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
pub(crate) struct BenchModelArgs {
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

    /// Ways to compile the model, separated by commas: `none` (the default), `default`,
    /// `reduce-overhead`, `max-autotune`, `max-autotune-no-cudagraphs`. Each backend is measured in
    /// each; they take turns too.
    #[arg(
        long,
        value_name = "MODES",
        value_delimiter = ',',
        value_parser = str::parse::<Compiling>,
        help_heading = "Compile"
    )]
    pub(crate) compile: Vec<Compiling>,

    #[command(flatten)]
    pub(crate) limits: CompileLimits,

    #[command(flatten)]
    pub(crate) common: BenchArgs,

    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// Measures the vision tower of a model.
///
/// Each row is one image of noise in one way to compile: the time to resize it and to cut it into patches; the median
/// time of several runs of the tower with the range from the 10th to the 90th percentile, GFLOP/s,
/// and the fraction of the multiplications the machine can do at most, measured in the same run (of a
/// GPU those of its linear layer, as in `bench layer`).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  moexperts bench vision --model ./Qwen3-VL-30B-A3B-Instruct
  moexperts bench vision --model ./qwen3-vl --image-size 512x512,1024x768 --dtype f32
  moexperts bench vision --model ./qwen3-vl --compile none,default --json vision.json")]
pub(crate) struct BenchVisionArgs {
    /// Widths and heights of the images in pixels, separated by commas.
    #[arg(long, value_name = "WxH", value_delimiter = ',', default_value = "1024x1024")]
    pub(crate) image_size: Vec<ImageSize>,

    /// The time each image is measured for: at least five runs, or three where a run takes much
    /// longer than that.
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = seconds)]
    pub(crate) time: Duration,

    /// Ways to compile the model, separated by commas: `none` (the default), `default`,
    /// `reduce-overhead`, `max-autotune`, `max-autotune-no-cudagraphs`.
    #[arg(
        long,
        value_name = "MODES",
        value_delimiter = ',',
        value_parser = str::parse::<Compiling>,
        help_heading = "Compile"
    )]
    pub(crate) compile: Vec<Compiling>,

    #[command(flatten)]
    pub(crate) limits: CompileLimits,

    /// Chooses the pixels.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,

    /// A JSON file for the rows, replaced after each of them.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// What the benchmarks of backends have.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// The backends, separated by commas; all that are registered by default.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) experts_implementation: Vec<String>,

    /// A JSON file for the rows, replaced after each of them.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// `--routing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoutingKind {
    /// Every expert is as likely as any other.
    Uniform,
    /// The second most popular expert is half as likely as the first, the third a third.
    Zipf,
    /// All tokens go to one expert, and to no other (K = 1): the largest group there can be.
    OneExpert,
}

/// `--image-size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImageSize {
    pub(crate) width: usize,
    pub(crate) height: usize,
}

impl FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('x').map(|(width, height)| (width.parse(), height.parse()));
        match numbers {
            Some((Ok(width @ 1..=MAX_SIDE), Ok(height @ 1..=MAX_SIDE))) => {
                Ok(Self { width, height })
            }
            _ => Err(format!("expected WIDTHxHEIGHT, each from 1 to {MAX_SIDE}")),
        }
    }
}

impl fmt::Display for ImageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number of seconds, at least 0".to_owned();
    let seconds: f64 = text.parse().map_err(|_| expected())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| expected())
}

/// The most sequences generated together: their prompts can be held.
pub(super) const MAX_BATCH: usize = 1 << 12;

pub(super) fn up_to<const MAX: usize>(text: &str) -> Result<NonZero<usize>, String> {
    match text.parse::<NonZero<usize>>() {
        Ok(count) if count.get() <= MAX => Ok(count),
        _ => Err(format!("expected a number from 1 to {MAX}")),
    }
}

pub(super) fn new_tokens(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 2..) => Ok(count),
        _ => Err("expected a number, at least 2".to_owned()),
    }
}
