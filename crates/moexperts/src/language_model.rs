//! A loaded model: run, switched and asked what it is.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use moexperts_core::{Batch, DType, Device, Execution, Experts, ExpertsBackend, Span};
use moexperts_cpu::Cpu;

use crate::{
    auto::LoadOptions,
    chat_template::{ChatTemplate, Message},
    compile::{
        CompileOptions, CompileReport, Compiled, Explanation, LastPlan, PhaseBackends, Plan,
        ShapeClass,
    },
    error::{Error, Result},
    experts_implementation::{Backbone, Choices, ExpertsImplementation, Phase},
    families,
    files::ModelFiles,
    generate::GenerationConfig,
    graph::{Observer, Stage, VisualFeatures},
    image_processor::Image,
    model::{Decoder, DecoderSpec, Forward, Input, LogitsRows, VisionTower},
    multimodal::{Multimodal, Unread},
    prompt::{Prompt, Visual},
    session::Session,
    tokenizer::Tokenizer,
    weights::{LoadReport, Weights},
};

/// A language model: a decoder, its tokenizer, the backends that run its experts, and, if it is
/// multimodal, what gives it pictures to read.
///
/// All methods take `&self`: threads may share one model, each with a [`Session`] of its own.
#[derive(Debug)]
pub struct LanguageModel<D: Device = Cpu> {
    decoder: Decoder<D>,
    multimodal: Option<Multimodal<D>>,
    tokenizer: Option<Tokenizer>,
    chat_template: Option<ChatTemplate>,
    generation_config: GenerationConfig,
    origin: String,
    report: LoadReport,
    state: RwLock<Arc<State<D>>>,
    /// The number of the state, 0 while the model is not compiled: a caller whose plan is of this
    /// number need not look at the state.
    compiled: AtomicU64,
}

/// What compiling a model made: its plans, and copies of weights. Clones share it.
#[derive(Debug, Clone)]
pub struct CompiledPlans<D: Device = Cpu>(Arc<Compiled<D>>);

/// How forwards are executed. Never changed: a switch makes a new one, so a forward that started
/// with the old one finishes with it.
#[derive(Debug)]
struct State<D: Device> {
    choices: Choices<D>,
    compiled: Option<Arc<Compiled<D>>>,
    /// Counts the states; the first is 1.
    number: u64,
}

/// A plan and the backend it is run with.
type PlanAndBackend<D> = (Arc<Plan<D>>, Arc<dyn ExpertsBackend<<D as Execution>::Experts>>);

impl<D: Device> LanguageModel<D> {
    /// Loads a model on a device.
    ///
    /// # Errors
    /// As [`AutoModel::from_pretrained`](crate::AutoModel::from_pretrained).
    pub fn load(device: D, files: ModelFiles, options: &LoadOptions) -> Result<Self> {
        let spec = families::describe(&files.config)?;
        let tokenizer = files.tokenizer.as_deref();
        let tokenizer =
            tokenizer.map(|bytes| Tokenizer::from_bytes("tokenizer.json", bytes)).transpose()?;
        let chat_template = match &files.chat_template {
            Some(template) => Some(ChatTemplate::new(template, files.tokenizer_config.as_ref())?),
            None => None,
        };
        let eos = match files.config.sub(spec.text.backbone)? {
            Some(text) => text.optional("eos_token_id")?,
            None => files.config.optional("eos_token_id")?,
        };
        let generation_config = GenerationConfig::read(files.generation_config.as_ref(), eos)?;
        let mut weights = Weights::new(
            &device,
            &files.checkpoint,
            spec.tensors(&files.checkpoint),
            options.dtype,
            &*options.progress,
        );
        let decoder = Decoder::load(spec.text, &mut weights)?;
        let multimodal = match spec.vision {
            Some(spec) => Some(Multimodal::load(spec, &files, tokenizer.as_ref(), &mut weights)?),
            None => None,
        };
        weights.finish();
        let report = weights.report();
        tracing::info!(
            in_place_bytes = report.in_place_bytes,
            converted_bytes = report.converted_bytes,
            "loaded the weights"
        );
        let choices = Choices::none();
        let choices = choices.with(
            &options.experts_implementation,
            &backbones(&decoder, multimodal.as_ref()),
            &device,
        )?;
        Ok(Self {
            decoder,
            multimodal,
            tokenizer,
            chat_template,
            generation_config,
            origin: files.origin,
            report,
            state: RwLock::new(Arc::new(State { choices, compiled: None, number: 1 })),
            compiled: AtomicU64::new(0),
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
        self.switch(|current, backbones| current.with(&implementation, backbones, self.device()))
    }

    /// Like [`set_experts_implementation`](Self::set_experts_implementation), with a backend that
    /// nobody else is to find by its name: it need not be registered, and runs every experts layer
    /// of prompts and of decode steps.
    ///
    /// # Errors
    /// For a backend that cannot run the model's experts; nothing has changed then.
    pub fn set_experts_backend(&self, backend: Arc<dyn ExpertsBackend<D::Experts>>) -> Result<()> {
        self.switch(|_, backbones| Choices::everywhere(&backend, backbones, self.device()))
    }

    /// Takes the choices that `choose` makes of the present ones, if the model can run them.
    fn switch(
        &self,
        choose: impl FnOnce(&Choices<D>, &[Backbone]) -> Result<Choices<D>>,
    ) -> Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let choices = choose(&state.choices, &backbones(&self.decoder, self.multimodal.as_ref()))?;
        if let Some(compiled) = &state.compiled {
            self.check(compiled, &choices)?;
        }
        tracing::info!(experts_implementation = ?choices.names(), "switched");
        let compiled = state.compiled.clone();
        self.change(&mut state, choices, compiled);
        Ok(())
    }

    /// Compiles the forward: from the next one on, and for every shape and backend that comes by, a
    /// plan runs whose operations are fused, whose buffers lie in one workspace and whose kernels
    /// are chosen. Results stay within the tolerance of [`DType`]; a model that was compiled before
    /// is compiled anew.
    ///
    /// Plans for [`CompileOptions::batch_sizes`] and [`CompileOptions::prompt_tokens`] are made at
    /// once, others at their first forward, those of the vision tower among them. Observed forwards
    /// run operation by operation.
    ///
    /// # Errors
    /// [`Error::GraphBreak`] for a backend that breaks the graph, with `fullgraph`;
    /// [`Error::Option`] for a batch or a prompt of no tokens or more than the model's context; what
    /// a forward returns, where kernels are measured. The model is as it was then.
    pub fn compile(&self, options: CompileOptions) -> Result<CompileReport> {
        for (option, counts, limit) in [
            ("batch_sizes", &options.batch_sizes, usize::MAX),
            ("prompt_tokens", &options.prompt_tokens, self.spec().max_position_embeddings),
        ] {
            if let Some(got) = counts.iter().find(|&&count| count == 0 || count > limit) {
                let expected = match limit {
                    usize::MAX => "at least 1".to_owned(),
                    limit => format!("1 to {limit}"),
                };
                return Err(Error::Option { option, got: got.to_string(), expected });
            }
        }
        let compiled = Arc::new(Compiled::new(options, &self.decoder)?);
        let state = self.state();
        self.check(&compiled, &state.choices)?;
        let backends = PhaseBackends {
            prefill: self.backend(&state.choices, Phase::Prefill),
            decode: self.backend(&state.choices, Phase::Decode),
        };
        let report = compiled.prepare(&self.decoder, backends)?;
        tracing::info!(%report, "compiled");
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        // The backend may have been switched meanwhile.
        self.check(&compiled, &state.choices)?;
        let choices = state.choices.clone();
        self.change(&mut state, choices, Some(compiled));
        Ok(report)
    }

    /// Runs operation by operation again; what compiling made is dropped.
    pub fn reset_compile(&self) {
        // What does not compile cannot be refused.
        let _ = self.set_compiled(None);
    }

    /// What compiling made, to be given back later with [`set_compiled`](Self::set_compiled); `None`
    /// if the model is not compiled.
    pub fn compiled(&self) -> Option<CompiledPlans<D>> {
        self.state().compiled.clone().map(CompiledPlans)
    }

    /// Goes back to what an earlier [`compile`](Self::compile) of this model made, with all plans
    /// made since; operation by operation with `None`.
    ///
    /// # Errors
    /// [`Error::GraphBreak`] if it was made with `fullgraph` and the backend has been switched to
    /// one that breaks the graph; [`Error::Option`] if it is another model's. Nothing has changed
    /// then.
    pub fn set_compiled(&self, plans: Option<CompiledPlans<D>>) -> Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(CompiledPlans(compiled)) = &plans {
            compiled.check_model(&self.decoder, &self.origin)?;
            self.check(compiled, &state.choices)?;
        }
        let choices = state.choices.clone();
        self.change(&mut state, choices, plans.map(|plans| plans.0));
        Ok(())
    }

    /// How the model is compiled, if it is.
    pub fn compile_options(&self) -> Option<CompileOptions> {
        self.state().compiled.as_ref().map(|compiled| compiled.options().clone())
    }

    /// What the plans of a compiled model do; `None` if it is not compiled.
    pub fn explain(&self) -> Option<Explanation> {
        self.state().compiled.as_ref().map(|compiled| compiled.explain(&self.decoder))
    }

    /// Makes a state the current one.
    fn change(
        &self,
        state: &mut Arc<State<D>>,
        choices: Choices<D>,
        compiled: Option<Arc<Compiled<D>>>,
    ) {
        let number = state.number + 1;
        self.compiled.store(if compiled.is_some() { number } else { 0 }, Ordering::Release);
        // A plan of a backend that is gone goes with it.
        let kept = compiled.clone();
        *state = Arc::new(State { choices, compiled, number });
        if let Some(compiled) = kept {
            compiled.drop_gone();
        }
    }

    /// Whether the model can be compiled with these backends.
    fn check(&self, compiled: &Compiled<D>, choices: &Choices<D>) -> Result<()> {
        compiled.check(self.backend(choices, Phase::Prefill))?;
        compiled.check(self.backend(choices, Phase::Decode))
    }

    fn backend<'c>(
        &self,
        choices: &'c Choices<D>,
        phase: Phase,
    ) -> &'c Arc<dyn ExpertsBackend<D::Experts>> {
        choices.backend(self.spec().backbone, phase)
    }

    /// The experts backend of each backbone, `""` being the model itself; feeding it back to
    /// [`set_experts_implementation`](Self::set_experts_implementation) restores it, where all are
    /// registered.
    pub fn experts_implementation(&self) -> BTreeMap<String, String> {
        self.state().choices.names()
    }

    /// An image, resized and cut into patches as the model's `preprocessor_config.json` says.
    ///
    /// # Errors
    /// [`Error::TextOnly`] if the model reads text alone, [`Error::Image`] if the image is too long
    /// for its width or beyond the pixel limit.
    pub fn prepare_image(&self, image: &Image) -> Result<Visual> {
        self.multimodal()?.prepare_image(image)
    }

    /// A video of frames of one size, each at its `timestamps` in seconds.
    ///
    /// # Errors
    /// As [`prepare_image`](Self::prepare_image), and for frames that do not fit together.
    pub fn prepare_video(&self, frames: &[Image], timestamps: &[f64]) -> Result<Visual> {
        self.multimodal()?.prepare_video(frames, timestamps)
    }

    /// A text and the pictures its placeholders stand for (`<|image_pad|>`, one an image; a video's
    /// is its own), in the order of each kind.
    ///
    /// - `add_special_tokens`: whether to add those that begin or end a text; chat templates write
    ///   them themselves
    ///
    /// # Errors
    /// [`Error::Placeholders`] if there are more or fewer placeholders than pictures,
    /// [`Error::TextOnly`] for pictures if the model reads text alone, [`Error::Tokenizer`] if it
    /// has no tokenizer.
    pub fn prompt(
        &self,
        text: &str,
        visuals: Vec<Visual>,
        add_special_tokens: bool,
    ) -> Result<Prompt> {
        let tokenizer = self.require_tokenizer()?;
        let (text, visuals) = match &self.multimodal {
            Some(multimodal) => multimodal.expand(text, visuals)?,
            None => (text.to_owned(), visuals),
        };
        self.prompt_of_tokens(tokenizer.encode(&text, add_special_tokens)?, visuals)
    }

    /// A conversation with the beginning of the model's turn, and the pictures its parts stand for,
    /// in the order of each kind.
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt); [`Error::Tokenizer`] if the model has no chat template, or the
    /// template refuses the conversation.
    pub fn chat_prompt(&self, messages: &[Message], visuals: Vec<Visual>) -> Result<Prompt> {
        let template = self.chat_template().ok_or_else(|| Error::Tokenizer {
            file: self.origin.clone(),
            problem: "the model has no chat template".to_owned(),
        })?;
        // The template writes the special tokens itself.
        self.prompt(&template.render(messages, true)?, visuals, false)
    }

    /// Token ids and the pictures that some of them stand for: a placeholder for each row of each
    /// picture, see [`Prompt::new`].
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt), but that no tokenizer is needed.
    pub fn prompt_of_tokens(&self, tokens: Vec<u32>, visuals: Vec<Visual>) -> Result<Prompt> {
        match &self.multimodal {
            Some(multimodal) => Prompt::new(tokens, visuals, multimodal.tower().spec()),
            None if visuals.is_empty() => Ok(tokens.into()),
            None => Err(self.text_only()),
        }
    }

    /// The vision tower of a model that can be given pictures.
    ///
    /// # Errors
    /// [`Error::TextOnly`] if it reads text alone.
    pub fn require_vision(&self) -> Result<&VisionTower<D>> {
        self.multimodal().map(Multimodal::tower)
    }

    /// What stands for a picture in a text: `<|image_pad|>`, `<|video_pad|>`.
    ///
    /// # Errors
    /// [`Error::TextOnly`] if the model reads text alone, [`Error::Tokenizer`] if it has no
    /// tokenizer.
    pub fn placeholder(&self, visual: &Visual) -> Result<String> {
        self.require_tokenizer()?;
        Ok(self.multimodal()?.placeholder(visual).unwrap_or_default())
    }

    /// Logits [T, V], row-major, for one prompt of T tokens.
    ///
    /// # Errors
    /// For an id beyond the vocabulary or more tokens than the model has positions for.
    pub fn logits(&self, prompt: impl Into<Prompt>) -> Result<Vec<f32>> {
        self.logits_of(prompt.into(), None)
    }

    /// [`logits`](Self::logits), showing every stage of every layer on the way.
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn logits_observed(
        &self,
        prompt: impl Into<Prompt>,
        observer: Observer<'_, D>,
    ) -> Result<Vec<f32>> {
        self.logits_of(prompt.into(), Some(observer))
    }

    fn logits_of(&self, prompt: Prompt, observer: Option<Observer<'_, D>>) -> Result<Vec<f32>> {
        let tokens = prompt.tokens().len();
        self.check_context(tokens)?;
        let mut session = self.session(1)?;
        let batch = Batch::new(vec![Span { sequence: 0, start: 0, tokens }]);
        let positions: Vec<_> = (0..tokens).map(|index| prompt.position(index)).collect();
        let input = Input {
            ids: prompt.tokens(),
            batch: &batch,
            positions: &positions,
            visuals: &self.visual_rows(&prompt, 0, 0)?.rows,
            logits: LogitsRows::All,
        };
        let mut logits = Vec::new();
        self.forward(input, &mut session, Phase::Prefill, observer, &mut logits)?;
        Ok(logits)
    }

    /// One forward, which writes its logits [rows, V]: by a plan if the model is compiled and the
    /// forward is not observed.
    pub(crate) fn forward(
        &self,
        input: Input<'_, D>,
        session: &mut Session<D>,
        phase: Phase,
        observer: Option<Observer<'_, D>>,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let planned = match observer {
            None => self.plan(&input, session, phase)?,
            Some(_) => None,
        };
        let memory = &mut session.memory;
        if let Some((plan, experts)) = planned {
            let call = Forward { input, memory, experts: &*experts, observer: None };
            return plan.forward(&self.decoder, call, logits);
        }
        let state = self.state();
        let experts = &**self.backend(&state.choices, phase);
        let mut observe = observer
            .map(|observer| move |layer: usize, stage: Stage<'_, D>| observer(layer, stage));
        let observer = observe.as_mut().map(|observe| observe as Observer<'_, D>);
        self.decoder.forward(Forward { input, memory, experts, observer }, logits)
    }

    /// The plan of a forward and its backend, if the model is compiled. Those of the session's last
    /// forward are found without a lock.
    fn plan(
        &self,
        input: &Input<'_, D>,
        session: &mut Session<D>,
        phase: Phase,
    ) -> Result<Option<PlanAndBackend<D>>> {
        let number = self.compiled.load(Ordering::Acquire);
        if number == 0 {
            return Ok(None);
        }
        let class = ShapeClass::of(input);
        if let Some(last) = &session.last_plan
            && (last.state, last.phase, last.plan.class()) == (number, phase, class)
            && let Some(backend) = last.backend.upgrade()
        {
            return Ok(Some((Arc::clone(&last.plan), backend)));
        }
        let state = self.state();
        let Some(compiled) = &state.compiled else { return Ok(None) };
        let backend = self.backend(&state.choices, phase);
        let plan = compiled.plan(&self.decoder, backend, class)?;
        session.last_plan = Some(LastPlan {
            state: state.number,
            phase,
            plan: Arc::clone(&plan),
            backend: Arc::downgrade(backend),
        });
        Ok(Some((plan, Arc::clone(backend))))
    }

    /// What a decoder reads of a picture: by a plan if the model is compiled.
    ///
    /// # Errors
    /// [`Error::TextOnly`] if the model reads text alone; if the pixels are not cut into patches as
    /// the model's vision tower takes them.
    pub fn visual_features(&self, visual: &Visual) -> Result<VisualFeatures<D>> {
        let (tower, pixels) = (self.multimodal()?.tower(), visual.pixels());
        match &self.state().compiled {
            Some(compiled) => {
                compiled.picture_plan(tower, pixels.patches())?.features(tower, pixels)
            }
            None => tower.features(pixels),
        }
    }

    /// The rows of the pictures among the tokens from `start` on, the first being row `first_row`.
    pub(crate) fn visual_rows(
        &self,
        prompt: &Prompt,
        start: usize,
        first_row: usize,
    ) -> Result<Unread<D>> {
        match &self.multimodal {
            Some(multimodal) => {
                let features = |visual: &Visual| self.visual_features(visual);
                multimodal.rows(prompt, start..prompt.tokens().len(), first_row, features)
            }
            None if prompt.visuals().next().is_some() => Err(self.text_only()),
            None => Ok(Unread { rows: Vec::new(), patches: 0 }),
        }
    }

    pub(crate) fn check_context(&self, tokens: usize) -> Result<()> {
        let context = self.spec().max_position_embeddings;
        if tokens > context { Err(Error::ContextExceeded { tokens, context }) } else { Ok(()) }
    }

    /// An empty session for a number of sequences that grow independently.
    ///
    /// # Errors
    /// If the device is out of memory.
    pub fn session(&self, sequences: usize) -> Result<Session<D>> {
        Ok(Session::new(self.decoder.memory(sequences)?, sequences))
    }

    /// Where the model computes.
    pub fn device(&self) -> &D {
        self.decoder.device()
    }

    /// What the model is.
    pub fn spec(&self) -> &DecoderSpec {
        self.decoder.spec()
    }

    /// What turns pictures into rows of the decoder, if the model is multimodal.
    pub fn vision_tower(&self) -> Option<&VisionTower<D>> {
        self.multimodal.as_ref().map(Multimodal::tower)
    }

    /// Element type of the experts.
    pub fn dtype(&self) -> Option<DType> {
        self.decoder.experts().first()?.spec().format.dense()
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
        self.all_experts().iter().map(|experts| experts.cache().size_bytes()).sum()
    }

    /// Drops what backends keep beside the weights; the next use makes it anew.
    pub fn clear_backend_caches(&self) {
        for experts in self.all_experts() {
            experts.cache().clear();
        }
    }

    /// The experts layers of the decoder, and those that compiling made of them.
    fn all_experts(&self) -> Vec<Arc<Experts<D::Experts>>> {
        let compiled = self.state().compiled.as_ref().map_or(Vec::new(), |all| all.experts());
        self.decoder.experts().iter().cloned().chain(compiled).collect()
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if it came without one.
    pub(crate) fn require_tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer().ok_or_else(|| Error::Tokenizer {
            file: self.origin().to_owned(),
            problem: "missing tokenizer.json, which turns text into token ids".to_owned(),
        })
    }

    fn multimodal(&self) -> Result<&Multimodal<D>> {
        self.multimodal.as_ref().ok_or_else(|| self.text_only())
    }

    fn text_only(&self) -> Error {
        let model_type = self.spec().model_type.clone();
        Error::TextOnly { origin: self.origin.clone(), model_type }
    }

    fn state(&self) -> Arc<State<D>> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The parts of a model that have a backend each: a text model has one, itself.
fn backbones<D: Device>(decoder: &Decoder<D>, multimodal: Option<&Multimodal<D>>) -> Vec<Backbone> {
    let experts = decoder.experts().iter().map(|experts| *experts.spec()).collect();
    let text = Backbone { key: decoder.spec().backbone.to_owned(), experts };
    // A tower without experts takes any name, so that one map serves many models.
    let vision = multimodal.map(|multimodal| Backbone {
        key: multimodal.tower().spec().backbone.to_owned(),
        experts: Vec::new(),
    });
    [text].into_iter().chain(vision).collect()
}
