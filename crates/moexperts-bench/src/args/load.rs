//! The command line of loading a model.

use std::path::PathBuf;

use clap::ValueEnum;
use moexperts::{DType, LoadOptions, hub::HubOptions};

use super::device::DeviceArgs;

/// Which model.
#[derive(Debug, clap::Args)]
pub struct SourceArgs {
    /// A folder with a model, or its id on the hub (`Qwen/Qwen1.5-MoE-A2.7B`), which is
    /// downloaded once; the model in the program by default.
    #[arg(long, value_name = "DIR|ID", help_heading = "Model")]
    pub model: Option<String>,

    #[command(flatten)]
    hub: HubArgs,
}

/// Which model, and how it is loaded.
#[derive(Debug, clap::Args)]
pub struct LoadArgs {
    /// Which model.
    #[command(flatten)]
    pub source: SourceArgs,

    /// Element type of the weights; another than the stored one is converted and held in memory.
    #[arg(long, value_name = "DTYPE", default_value = "auto", help_heading = "Model")]
    dtype: DTypeArg,

    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// `--dtype`.
#[expect(missing_docs, reason = "the names say it, and documentation would be shown as help")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DTypeArg {
    /// As stored.
    Auto,
    F32,
    F16,
    Bf16,
}

/// Where models come from that are no folder.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Models from the hub")]
pub(crate) struct HubArgs {
    /// The branch, tag or commit to fetch; `main` by default.
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,

    /// The access token for private and gated models; HF_TOKEN or the saved one by default.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,

    /// The folder downloads are kept in; HF_HUB_CACHE or ~/.cache/huggingface/hub by default.
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,

    /// Uses the cache alone and never the network; off by default.
    #[arg(long)]
    offline: bool,
}

impl SourceArgs {
    /// How its files are found.
    pub fn options(&self) -> LoadOptions {
        load_options(DTypeArg::Auto, &self.hub)
    }
}

impl LoadArgs {
    /// The element type that the weights are converted to; none as stored.
    pub fn dtype(&self) -> Option<DType> {
        self.dtype.dtype()
    }

    /// How the model is loaded.
    pub fn options(&self) -> LoadOptions {
        load_options(self.dtype, &self.source.hub)
    }
}

/// How a model is loaded.
pub(crate) fn load_options(dtype: DTypeArg, hub: &HubArgs) -> LoadOptions {
    LoadOptions::new().dtype(dtype.dtype()).hub(HubOptions {
        revision: hub.revision.clone(),
        token: hub.token.clone(),
        cache_dir: hub.cache_dir.clone(),
        offline: hub.offline,
        ..HubOptions::default()
    })
}

impl DTypeArg {
    /// None as stored.
    pub(crate) fn dtype(self) -> Option<DType> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::Bf16 => Some(DType::Bf16),
        }
    }
}
