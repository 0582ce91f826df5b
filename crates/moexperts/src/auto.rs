//! Models by name: found, described, loaded and switched.

use std::{
    collections::BTreeMap,
    num::NonZero,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use moexperts_core::{Batch, DType, Device, Span};
use moexperts_cpu::{Cpu, CpuOptions};

use crate::{
    chat_template::ChatTemplate,
    error::{Error, Result},
    experts_implementation::{Backbone, Choices, ExpertsImplementation, Phase},
    families,
    files::ModelFiles,
    generate::GenerationConfig,
    hub::{self, HubOptions, Progress},
    model::{Decoder, DecoderSpec, Forward, LoadReport, LogitsRows, Observer, Session},
    tokenizer::Tokenizer,
};

/// Finds and loads models.
#[derive(Debug, Clone, Copy)]
pub struct AutoModelForCausalLm;

impl AutoModelForCausalLm {
    /// Loads a model from a folder, or from the hub by its id (`Qwen/Qwen1.5-MoE-A2.7B`).
    ///
    /// # Errors
    /// If the model cannot be found, is damaged, is of a family that is not known, or the chosen
    /// experts implementation cannot run it.
    pub fn from_pretrained(model: &str, options: LoadOptions) -> Result<CausalLm> {
        // A wrong name should not cost a download.
        options.experts_implementation.check_names::<Cpu>()?;
        let folder = match Path::new(model) {
            path if path.exists() || !looks_like_id(model) => path.to_owned(),
            _ => hub::fetch(model, &options.hub, Arc::clone(&options.progress))?,
        };
        Self::from_files(ModelFiles::open(&folder)?, options)
    }

    /// Loads a model from files already opened.
    ///
    /// # Errors
    /// As [`from_pretrained`](Self::from_pretrained).
    pub fn from_files(files: ModelFiles, options: LoadOptions) -> Result<CausalLm> {
        let cpu = Cpu::new(CpuOptions { threads: options.threads, isa: None })?;
        CausalLm::load(cpu, files, &options)
    }
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
    dtype: Option<DType>,
    experts_implementation: ExpertsImplementation,
    threads: Option<NonZero<usize>>,
    hub: HubOptions,
    progress: Arc<dyn Progress>,
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

    /// Threads to compute with.
    #[must_use]
    pub fn threads(mut self, threads: impl Into<Option<NonZero<usize>>>) -> Self {
        self.threads = threads.into();
        self
    }

    /// Revision, token, cache and endpoint for models from the hub.
    #[must_use]
    pub fn hub(mut self, hub: HubOptions) -> Self {
        self.hub = hub;
        self
    }

    /// Who is told how a download goes.
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

/// A language model: a decoder, its tokenizer, and the backends that run its experts.
///
/// All methods take `&self`: threads may share one model, each with a [`Session`] of its own.
#[derive(Debug)]
pub struct CausalLm<D: Device = Cpu> {
    decoder: Decoder<D>,
    tokenizer: Option<Tokenizer>,
    chat_template: Option<ChatTemplate>,
    generation_config: GenerationConfig,
    origin: String,
    report: LoadReport,
    choices: RwLock<Arc<Choices<D>>>,
}

impl<D: Device> CausalLm<D> {
    /// Loads a model on a device.
    ///
    /// # Errors
    /// As [`AutoModelForCausalLm::from_pretrained`].
    pub fn load(device: D, files: ModelFiles, options: &LoadOptions) -> Result<Self> {
        let spec = families::describe(&files.config)?;
        let tokenizer = files.tokenizer.as_deref();
        let tokenizer =
            tokenizer.map(|bytes| Tokenizer::from_bytes("tokenizer.json", bytes)).transpose()?;
        let chat_template = match &files.chat_template {
            Some(template) => Some(ChatTemplate::new(template, files.tokenizer_config.as_ref())?),
            None => None,
        };
        let eos = files.config.optional("eos_token_id")?;
        let generation_config = GenerationConfig::read(files.generation_config.as_ref(), eos)?;
        let (decoder, report) = Decoder::load(device, spec, &files.checkpoint, options.dtype)?;
        let backbones = backbones(&decoder);
        let choices =
            Choices::none().with(&options.experts_implementation, &backbones, decoder.device())?;
        Ok(Self {
            decoder,
            tokenizer,
            chat_template,
            generation_config,
            origin: files.origin,
            report,
            choices: RwLock::new(Arc::new(choices)),
        })
    }

    /// Switches the experts backend from the next forward on: nothing is reloaded or copied, and
    /// a forward in progress on another thread finishes with the backend it started with.
    ///
    /// # Errors
    /// For a name that is not registered, a key that is no sub-config of the model, or a backend
    /// that cannot run the model's experts; nothing has changed then.
    pub fn set_experts_implementation(
        &self,
        implementation: impl Into<ExpertsImplementation>,
    ) -> Result<()> {
        let implementation = implementation.into();
        let mut choices = self.choices.write().unwrap_or_else(PoisonError::into_inner);
        let next = choices.with(&implementation, &backbones(&self.decoder), self.device())?;
        tracing::info!(experts_implementation = %implementation, "switched");
        *choices = Arc::new(next);
        Ok(())
    }

    /// The experts backend of each backbone, `""` being the model itself; feeding it back to
    /// [`set_experts_implementation`](Self::set_experts_implementation) restores it.
    pub fn experts_implementation(&self) -> BTreeMap<String, String> {
        self.choices().names()
    }

    /// Logits [T, V], row-major, for one sequence of token ids `[T]`.
    ///
    /// # Errors
    /// For an id beyond the vocabulary or more tokens than the model has positions for.
    pub fn logits(&self, ids: &[u32]) -> Result<Vec<f32>> {
        self.logits_observed(ids, &mut |_, _| {})
    }

    /// [`logits`](Self::logits), showing every stage of every layer on the way.
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn logits_observed(&self, ids: &[u32], observer: Observer<'_, D>) -> Result<Vec<f32>> {
        self.check_context(ids.len())?;
        let mut session = self.decoder.session(1)?;
        let batch = Batch::new(vec![Span { sequence: 0, start: 0, tokens: ids.len() }]);
        let choices = self.choices();
        self.decoder.forward(Forward {
            ids,
            batch: &batch,
            session: &mut session,
            experts: choices.backend("", Phase::Prefill),
            logits: LogitsRows::All,
            observer,
        })
    }

    /// One forward of a generation: logits [spans, V] after the last token of each span.
    pub(crate) fn step(
        &self,
        ids: &[u32],
        batch: &Batch,
        session: &mut Session<D>,
        phase: Phase,
    ) -> Result<Vec<f32>> {
        let choices = self.choices();
        self.decoder.forward(Forward {
            ids,
            batch,
            session,
            experts: choices.backend("", phase),
            logits: LogitsRows::LastOfSpan,
            observer: &mut |_, _| {},
        })
    }

    pub(crate) fn check_context(&self, tokens: usize) -> Result<()> {
        let context = self.spec().max_position_embeddings;
        if tokens > context { Err(Error::ContextExceeded { tokens, context }) } else { Ok(()) }
    }

    /// An empty session for a number of sequences that grow independently.
    ///
    /// # Errors
    /// If the device has no room for it.
    pub fn session(&self, sequences: usize) -> Result<Session<D>> {
        self.decoder.session(sequences)
    }

    /// Where the model computes.
    pub fn device(&self) -> &D {
        self.decoder.device()
    }

    /// What the model is.
    pub fn spec(&self) -> &DecoderSpec {
        self.decoder.spec()
    }

    /// Element type of the experts.
    pub fn dtype(&self) -> Option<DType> {
        self.decoder.experts().next().map(|experts| experts.spec().dtype)
    }

    /// The model's tokenizer, if it came with one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The model's chat template, if it came with one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    /// How the model's makers want it to generate.
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.generation_config
    }

    /// The folder or file the model came from.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// What loading had to do beyond mapping files.
    pub fn load_report(&self) -> LoadReport {
        self.report
    }

    /// Bytes that backends keep beside the weights, in layouts of their own.
    pub fn backend_cache_bytes(&self) -> usize {
        self.decoder.experts().map(|experts| experts.cache().size_bytes()).sum()
    }

    /// Drops what backends keep beside the weights; the next use makes it anew.
    pub fn clear_backend_caches(&self) {
        for experts in self.decoder.experts() {
            experts.cache().clear();
        }
    }

    fn choices(&self) -> Arc<Choices<D>> {
        Arc::clone(&self.choices.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The parts of a model that have a backend each: a text model has one, itself.
fn backbones<D: Device>(decoder: &Decoder<D>) -> Vec<Backbone> {
    let experts = decoder.experts().map(|experts| *experts.spec()).collect();
    vec![Backbone { key: String::new(), experts }]
}
