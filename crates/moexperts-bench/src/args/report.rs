//! The command line of `moexperts bench report`.

use std::path::PathBuf;

/// Makes the page of a sweep, or of what changed between two.
///
/// With one file the page is `report.html` beside it. With two the first is before and the second
/// after: the changes are shown here and in `comparison.html` beside the second. A change exceeds the
/// noise if both have three runs at least, and their ranges from the 10th to the 90th percentile have no
/// time in common.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  moexperts bench report sweep/results.json
  moexperts bench report before/results.json after/results.json --out comparison.html
  moexperts bench report sweep/results.json --reference")]
pub struct BenchReportArgs {
    /// The results.json of a sweep; with a second one those before the change.
    #[arg(value_name = "RESULTS")]
    pub(crate) results: PathBuf,

    /// Those after the change.
    #[arg(value_name = "AFTER")]
    pub(crate) after: Option<PathBuf>,

    /// The page; replaced in one step if it exists.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,

    /// Puts figures beside the results that transformers' authors published of their backends,
    /// marked as such: they are of other hardware.
    #[arg(long)]
    pub(crate) reference: bool,
}
