//! A language model, whatever device it runs on.

use std::{any::Any, collections::BTreeMap};

use moexperts_core::{DType, Device, DeviceKind};

use super::{
    device_model::DeviceModel,
    runner::{CompiledPlans, Runner, text_only},
};
use crate::{
    any_device::AnyDevice,
    blocks::VisionSpec,
    chat_template::ChatTemplate,
    compile::{CompileOptions, CompileReport, Explanation},
    error::{Error, Result},
    experts_implementation::ExpertsImplementation,
    generate::config::GenerationConfig,
    model::DecoderSpec,
    multimodal::Processors,
    prompt::{Prompt, Visual},
    session::Session,
    tokenizer::Tokenizer,
    weights::LoadReport,
};

/// A language model: a decoder, its tokenizer, the backends that run its experts, and, if it is
/// multimodal, what prepares pictures for it.
///
/// All methods take `&self`: threads may share one model, each with a separate [`Session`]. The type
/// of the device is erased; [`on`](Self::on) gives what depends on it.
#[derive(Debug)]
pub struct LanguageModel {
    pub(super) runner: Box<dyn Runner>,
    pub(super) processors: Option<Processors>,
    pub(super) tokenizer: Option<Tokenizer>,
    /// A template that does not compile is an error where it is used.
    pub(super) chat_template: Option<ChatTemplate>,
    pub(super) generation_config: GenerationConfig,
    pub(super) report: LoadReport,
}

impl LanguageModel {
    /// The part of the model on its device, if that is a `D`.
    pub fn on<D: Device>(&self) -> Option<&DeviceModel<D>> {
        let runner: &dyn Any = &*self.runner;
        runner.downcast_ref()
    }

    /// The device that the model computes on; `None` if it is neither [`Cpu`](crate::Cpu) nor
    /// `Cuda`.
    pub fn device(&self) -> Option<AnyDevice> {
        self.runner.device()
    }

    /// The name of the device: `CPU`.
    pub fn device_name(&self) -> &'static str {
        self.runner.device_name()
    }

    /// What kind of machine the device is, which decides which backend decodes.
    pub fn device_kind(&self) -> DeviceKind {
        self.runner.device_kind()
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
        self.runner.set_experts_implementation(&implementation.into())
    }

    /// The experts backend of each backbone, `""` being the model itself; feeding it back to
    /// [`set_experts_implementation`](Self::set_experts_implementation) restores it, where all are
    /// registered.
    pub fn experts_implementation(&self) -> BTreeMap<String, String> {
        self.runner.experts_implementation()
    }

    /// Compiles the forward: from the next one on, each class of shapes and each backend gets a plan
    /// whose operations are fused, whose buffers lie in one workspace and whose kernels are chosen.
    /// Results stay within the tolerance of [`DType`]; a model that was compiled before is compiled
    /// anew.
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
        self.runner.compile(options)
    }

    /// Runs operation by operation again; what compiling made is dropped.
    pub fn reset_compile(&self) {
        // A model that is not compiled cannot be refused.
        let _ = self.runner.set_compiled(None);
    }

    /// What compiling made, to be given back later with [`set_compiled`](Self::set_compiled); `None`
    /// if the model is not compiled.
    pub fn compiled(&self) -> Option<CompiledPlans> {
        self.runner.compiled()
    }

    /// Goes back to what an earlier [`compile`](Self::compile) of this model made, with all plans
    /// made since; operation by operation with `None`.
    ///
    /// # Errors
    /// [`Error::GraphBreak`] if it was made with `fullgraph` and the backend has been switched to
    /// one that breaks the graph; [`Error::Option`] if it is another model's. Nothing has changed
    /// then.
    pub fn set_compiled(&self, plans: Option<CompiledPlans>) -> Result<()> {
        self.runner.set_compiled(plans)
    }

    /// How the model is compiled, if it is.
    pub fn compile_options(&self) -> Option<CompileOptions> {
        self.runner.compile_options()
    }

    /// What the plans of a compiled model do; `None` if it is not compiled.
    pub fn explain(&self) -> Option<Explanation> {
        self.runner.explain()
    }

    /// Logits [T, V], row-major, for one prompt of T tokens.
    ///
    /// # Errors
    /// For an id beyond the vocabulary or more tokens than the model has positions for.
    pub fn logits(&self, prompt: impl Into<Prompt>) -> Result<Vec<f32>> {
        self.runner.logits(&prompt.into())
    }

    /// An empty session for a number of sequences that grow independently.
    ///
    /// # Errors
    /// If the device is out of memory.
    pub fn session(&self, sequences: usize) -> Result<Session> {
        let memory = self.runner.new_memory(sequences)?;
        Ok(Session::new(self.runner.number(), memory, sequences))
    }

    /// Whether a session is of this model.
    ///
    /// # Errors
    /// [`Error::Option`] if it is of another.
    pub(crate) fn check_session(&self, session: &Session) -> Result<()> {
        if session.model == self.runner.number() {
            return Ok(());
        }
        Err(Error::Option {
            option: "session",
            got: "made by another model".to_owned(),
            expected: format!("a session of `{}`, as it is loaded here", self.origin()),
        })
    }

    pub(crate) fn runner(&self) -> &dyn Runner {
        &*self.runner
    }

    /// The description of the decoder.
    pub fn spec(&self) -> &DecoderSpec {
        self.runner.spec()
    }

    /// Element type of the experts.
    pub fn dtype(&self) -> Option<DType> {
        self.runner.dtype()
    }

    /// The description of the vision tower, if the model is multimodal.
    pub fn vision(&self) -> Option<&VisionSpec> {
        self.runner.vision().map(|(spec, _)| spec)
    }

    /// The description of the vision tower.
    ///
    /// # Errors
    /// [`Error::TextOnly`] if the model reads text only.
    pub fn require_vision(&self) -> Result<&VisionSpec> {
        self.vision().ok_or_else(|| text_only(self.origin(), self.spec()))
    }

    /// Element type of the vision tower's weights, if the model is multimodal.
    pub fn vision_dtype(&self) -> Option<DType> {
        self.runner.vision().map(|(_, dtype)| dtype)
    }

    /// Runs the vision tower on a picture and waits until the device is done, for measurements; a
    /// generation does so where its prompt has the picture.
    ///
    /// # Errors
    /// [`Error::TextOnly`] if the model reads text only; for pixels that were cut for another model.
    pub fn read_picture(&self, visual: &Visual) -> Result<()> {
        self.runner.read_picture(visual)
    }

    /// The model's tokenizer, if it came with one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The model's chat template, if it came with one, be it one that compiles or not.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    /// How the model's makers want it to generate.
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.generation_config
    }

    /// The folder or file the model came from.
    pub fn origin(&self) -> &str {
        self.runner.origin()
    }

    /// What loading had to do beyond mapping files.
    pub fn load_report(&self) -> &LoadReport {
        &self.report
    }

    /// Bytes that backends keep beside the weights, in their layouts.
    pub fn backend_cache_bytes(&self) -> usize {
        self.runner.backend_cache_bytes()
    }

    /// Drops what backends keep beside the weights; the next use makes it anew.
    pub fn clear_backend_caches(&self) {
        self.runner.clear_backend_caches();
    }
}
