//! The command line of `moexperts bench vision`.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use super::{common::seconds, compile::CompileModes, load::LoadArgs};

/// The longest side of an image: its pixels can be counted and held.
const MAX_SIDE: usize = 1 << 13;

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
pub struct BenchVisionArgs {
    /// Widths and heights of the images in pixels, separated by commas.
    #[arg(long, value_name = "WxH", value_delimiter = ',', default_value = "1024x1024")]
    pub(crate) image_size: Vec<ImageSize>,

    /// The time each image is measured for: at least five runs, or three where a run takes much
    /// longer than that.
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = seconds)]
    pub(crate) time: Duration,

    #[command(flatten)]
    pub(crate) compile: CompileModes,

    /// Chooses the pixels.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,

    /// A JSON file for the rows, replaced after each of them.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// `--image-size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSize {
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
