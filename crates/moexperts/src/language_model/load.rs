//! From the files of a model to a model on a device.

use moexperts_core::Device;

use super::{
    device_model::DeviceModel, front::LanguageModel, options::LoadOptions, runner::Runner,
};
use crate::{
    any_device::AnyDevice, chat_template::ChatTemplate, error::Result,
    experts_implementation::ExpertsImplementation, families, files::ModelFiles,
    generate::config::GenerationConfig, model::ModelSpec, multimodal::Processors,
    tokenizer::Tokenizer, warnings::Warnings, weights::LoadReport,
};

/// Where a model can be loaded: any [`Device`], or an [`AnyDevice`].
///
/// Loading on an [`AnyDevice`] compiles nothing anew: the models on the devices that it knows are
/// compiled in this crate. Loading on a [`Device`] compiles the model for it.
pub trait LoadTarget: sealed::Target {}

impl<D: Device> LoadTarget for D {}

impl LoadTarget for AnyDevice {}

/// What [`LoadTarget`] does, which callers need not see.
mod sealed {
    use super::{
        ExpertsImplementation, LoadOptions, LoadReport, ModelFiles, ModelSpec, Result, Runner,
    };

    pub trait Target: Sized {
        /// Whether the device knows the names.
        fn check_names(&self, implementation: &ExpertsImplementation) -> Result<()>;

        fn load(self, spec: ModelSpec, files: &ModelFiles, options: &LoadOptions)
        -> Result<Loaded>;
    }

    /// A model on its device, and what loading did.
    #[derive(Debug)]
    pub struct Loaded {
        pub(super) runner: Box<dyn Runner>,
        pub(super) report: LoadReport,
    }
}

impl<D: Device> sealed::Target for D {
    fn check_names(&self, implementation: &ExpertsImplementation) -> Result<()> {
        implementation.check_names::<D>()
    }

    fn load(
        self,
        spec: ModelSpec,
        files: &ModelFiles,
        options: &LoadOptions,
    ) -> Result<sealed::Loaded> {
        let origin = files.origin.clone();
        let (model, report) = DeviceModel::load(self, origin, spec, &files.checkpoint, options)?;
        Ok(sealed::Loaded { runner: Box::new(model), report })
    }
}

impl sealed::Target for AnyDevice {
    fn check_names(&self, implementation: &ExpertsImplementation) -> Result<()> {
        match self {
            Self::Cpu(cpu) => cpu.check_names(implementation),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.check_names(implementation),
        }
    }

    fn load(
        self,
        spec: ModelSpec,
        files: &ModelFiles,
        options: &LoadOptions,
    ) -> Result<sealed::Loaded> {
        match self {
            Self::Cpu(cpu) => cpu.load(spec, files, options),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.load(spec, files, options),
        }
    }
}

impl LanguageModel {
    /// Loads a model on a device.
    ///
    /// # Errors
    /// As [`AutoModel::from_pretrained`](crate::AutoModel::from_pretrained).
    pub(crate) fn load(
        target: impl LoadTarget,
        files: &ModelFiles,
        options: &LoadOptions,
    ) -> Result<Self> {
        let spec = families::describe(&files.config)?;
        let mut warnings = files.warnings.clone();
        let parts = Parts::read(files, &spec, &mut warnings)?;
        warnings.extend(families::unobeyed(&files.config));
        let sealed::Loaded { runner, mut report } = target.load(spec, files, options)?;
        warnings.extend(std::mem::take(&mut report.warnings));
        for warning in warnings.iter() {
            tracing::warn!("{warning}");
        }
        report.warnings = warnings;
        let Parts { processors, tokenizer, chat_template, generation_config } = parts;
        Ok(Self { runner, processors, tokenizer, chat_template, generation_config, report })
    }
}

/// What a model has beside its weights. Read first, so that a broken file does not cost the loading
/// of weights.
struct Parts {
    processors: Option<Processors>,
    tokenizer: Option<Tokenizer>,
    chat_template: Option<ChatTemplate>,
    generation_config: GenerationConfig,
}

impl Parts {
    fn read(files: &ModelFiles, spec: &ModelSpec, warnings: &mut Warnings) -> Result<Self> {
        // A program without the features runs the model on token ids.
        let tokenizer = match cfg!(feature = "tokenizer") {
            true => Tokenizer::read(files, warnings)?,
            false => None,
        };
        let chat_template = ChatTemplate::read(files, warnings)?;
        let eos = match files.config.sub(spec.text.backbone)? {
            Some(text) => text.optional("eos_token_id")?,
            None => files.config.optional("eos_token_id")?,
        };
        let processors = spec.vision.as_ref();
        let processors =
            processors.map(|spec| Processors::read(spec, files, tokenizer.as_ref())).transpose()?;
        let (file, config) = (files.generation_config.as_ref(), Some(&files.config));
        let generation_config = GenerationConfig::read(file, config, eos, warnings)?;
        if tokenizer.is_none() && !generation_config.stop_strings.is_empty() {
            warnings.push(format_args!(
                "{}: `stop_strings` end no text: the model has no tokenizer to find them with",
                generation_config.file
            ));
        }
        Ok(Self { processors, tokenizer, chat_template, generation_config })
    }
}
