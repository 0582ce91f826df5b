//! Models by name: found, described, loaded and switched.

use std::{
    collections::BTreeMap,
    num::NonZero,
    path::{Path, PathBuf},
    sync::Arc,
};

use moexperts_core::{DType, Device};
use moexperts_cpu::{Cpu, CpuOptions};

use crate::{
    error::{Error, Result},
    experts_implementation::ExpertsImplementation,
    families::{Family, Task},
    files::ModelFiles,
    hub::{self, HubOptions},
    language_model::LanguageModel,
    progress::Progress,
};

/// Loaders differ in the models they take alone.
macro_rules! loader {
    ($(#[$doc:meta])* $name:ident, $takes:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name;

        impl $name {
            /// Loads a model from a folder, or from the hub by its id (`Qwen/Qwen1.5-MoE-A2.7B`).
            ///
            /// # Errors
            /// If the model cannot be found, is damaged, is of a family that is not known, or the
            /// chosen experts implementation cannot run it; [`Error::OtherLoader`] if it is of a
            /// task that this loader is not for.
            pub fn from_pretrained(model: &str, options: LoadOptions) -> Result<LanguageModel> {
                Self::from_pretrained_on(options.cpu()?, model, options)
            }

            /// [`from_pretrained`](Self::from_pretrained) on a device:
            /// `Cuda::new(CudaOptions::default())?`.
            ///
            /// # Errors
            /// As there, and if the device has no room for the weights.
            pub fn from_pretrained_on<D: Device>(
                device: D,
                model: &str,
                options: LoadOptions,
            ) -> Result<LanguageModel<D>> {
                Self::from_files_on(device, find::<D>(model, &options)?, options)
            }

            /// Loads a model from files already opened.
            ///
            /// # Errors
            /// As [`from_pretrained`](Self::from_pretrained).
            pub fn from_files(files: ModelFiles, options: LoadOptions) -> Result<LanguageModel> {
                Self::from_files_on(options.cpu()?, files, options)
            }

            /// [`from_files`](Self::from_files) on a device.
            ///
            /// # Errors
            /// As [`from_pretrained_on`](Self::from_pretrained_on).
            pub fn from_files_on<D: Device>(
                device: D,
                files: ModelFiles,
                options: LoadOptions,
            ) -> Result<LanguageModel<D>> {
                require(&files, $takes)?;
                LanguageModel::load(device, files, &options)
            }
        }
    };
}

loader! {
    /// Finds and loads models of any task.
    AutoModel, None
}

loader! {
    /// Finds and loads models that read and write text.
    AutoModelForCausalLm, Some(Task::CausalLm)
}

loader! {
    /// Finds and loads models that read images and text and write text
    /// (`Qwen/Qwen3-VL-30B-A3B-Instruct`).
    AutoModelForImageTextToText, Some(Task::ImageTextToText)
}

fn find<D: Device>(model: &str, options: &LoadOptions) -> Result<ModelFiles> {
    // A wrong name should not cost a download.
    options.experts_implementation.check_names::<D>()?;
    let folder = match Path::new(model) {
        path if path.exists() || !looks_like_id(model) => path.to_owned(),
        _ => hub::fetch(model, &options.hub, Arc::clone(&options.progress))?,
    };
    ModelFiles::open(&folder)
}

/// Whether a model is of the task, if there has to be one.
fn require(files: &ModelFiles, task: Option<Task>) -> Result<()> {
    let family = Family::of(&files.config)?;
    if task.is_none_or(|task| task == family.task()) {
        return Ok(());
    }
    Err(Error::OtherLoader {
        file: files.config.file().to_owned(),
        model_type: family.model_type.to_owned(),
        loader: family.task().loader(),
    })
}

/// Whether a name that is no path could be a hub id: `name` or `owner/name`.
fn looks_like_id(model: &str) -> bool {
    let parts = model.split('/').count();
    let is_path = PathBuf::from(model).is_absolute() || model.starts_with('.') || parts > 2;
    !is_path && !model.is_empty()
}

/// How a model is loaded.
#[derive(Clone)]
pub struct LoadOptions {
    pub(crate) dtype: Option<DType>,
    pub(crate) experts_implementation: ExpertsImplementation,
    threads: Option<NonZero<usize>>,
    hub: HubOptions,
    pub(crate) progress: Arc<dyn Progress>,
}

impl LoadOptions {
    /// Weights as stored, `grouped_mm`, every thread of the machine.
    pub fn new() -> Self {
        Self {
            dtype: None,
            experts_implementation: ExpertsImplementation::PerBackbone(BTreeMap::new()),
            threads: None,
            hub: HubOptions::default(),
            progress: Arc::new(()),
        }
    }

    /// Element type of the weights. Another than the stored one is converted while loading, and
    /// then held in memory; by default weights stay in the file as they are.
    #[must_use]
    pub fn dtype(mut self, dtype: impl Into<Option<DType>>) -> Self {
        self.dtype = dtype.into();
        self
    }

    /// The experts backend, for the whole model or per backbone.
    #[must_use]
    pub fn experts_implementation(mut self, choice: impl Into<ExpertsImplementation>) -> Self {
        self.experts_implementation = choice.into();
        self
    }

    /// Threads to compute with, for loaders that are not given a device.
    #[must_use]
    pub fn threads(mut self, threads: impl Into<Option<NonZero<usize>>>) -> Self {
        self.threads = threads.into();
        self
    }

    /// The device of loaders that are not given one.
    fn cpu(&self) -> Result<Cpu> {
        Ok(Cpu::new(CpuOptions { threads: self.threads, isa: None })?)
    }

    /// Revision, token, cache and endpoint for models from the hub.
    #[must_use]
    pub fn hub(mut self, hub: HubOptions) -> Self {
        self.hub = hub;
        self
    }

    /// Who is told how downloads and conversions go.
    #[must_use]
    pub fn progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadOptions")
            .field("dtype", &self.dtype)
            .field("experts_implementation", &self.experts_implementation)
            .field("threads", &self.threads)
            .field("hub", &self.hub)
            .finish_non_exhaustive()
    }
}
