//! The command line of `moexperts bench layer`.

use std::{num::NonZero, time::Duration};

use clap::ValueEnum;
use moexperts::DType;

use super::{
    common::{BenchArgs, seconds},
    device::DeviceArgs,
    shape::Shapes,
};

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
pub struct BenchLayerArgs {
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

/// `--routing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoutingKind {
    /// Every expert is as likely as any other.
    Uniform,
    /// The second most popular expert is half as likely as the first, the third a third.
    Zipf,
    /// All tokens go to one expert, and to no other (K = 1): the largest group there can be.
    OneExpert,
}
