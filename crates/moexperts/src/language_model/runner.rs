//! What a model does on its device, without the type of the device.

use std::{any::Any, collections::BTreeMap, fmt, sync::Arc};

use moexperts_core::{Batch, DType, DeviceKind};

use crate::{
    any_device::AnyDevice,
    blocks::VisionSpec,
    compile::{CompileOptions, CompileReport, Explanation},
    error::{Error, Result},
    experts_implementation::{ExpertsImplementation, Phase},
    families::{FAMILIES, Task},
    model::{DecoderSpec, LogitsRows},
    prompt::{Position, Prompt, Visual},
    session::SessionMemory,
};

/// A model on a device whose type is erased. One call runs a whole forward, so that what a virtual
/// call costs does not matter.
///
/// A [`SessionMemory`] is one that [`new_memory`](Self::new_memory) of the same model made; another is
/// an error.
pub(crate) trait Runner: Any + fmt::Debug + Send + Sync {
    /// Unique within the process.
    fn number(&self) -> u64;
    fn origin(&self) -> &str;
    fn spec(&self) -> &DecoderSpec;
    /// Element type of the experts.
    fn dtype(&self) -> Option<DType>;
    /// The vision tower and the element type of its weights.
    fn vision(&self) -> Option<(&VisionSpec, DType)>;

    fn device_name(&self) -> &'static str;
    fn device_kind(&self) -> DeviceKind;
    /// The device, if it is one that [`AnyDevice`] knows.
    fn device(&self) -> Option<AnyDevice>;

    fn set_experts_implementation(&self, implementation: &ExpertsImplementation) -> Result<()>;
    fn experts_implementation(&self) -> BTreeMap<String, String>;
    fn backend_cache_bytes(&self) -> usize;
    fn clear_backend_caches(&self);

    fn compile(&self, options: CompileOptions) -> Result<CompileReport>;
    fn compiled(&self) -> Option<CompiledPlans>;
    fn set_compiled(&self, plans: Option<CompiledPlans>) -> Result<()>;
    fn compile_options(&self) -> Option<CompileOptions>;
    fn explain(&self) -> Option<Explanation>;

    fn new_memory(&self, sequences: usize) -> Result<Box<dyn SessionMemory>>;
    /// Whether a sequence may go on at a position that it has read before.
    fn can_cut(
        &self,
        memory: &mut dyn SessionMemory,
        sequence: usize,
        position: usize,
    ) -> Result<bool>;
    /// Allocates for that many positions of a sequence.
    fn reserve(
        &self,
        memory: &mut dyn SessionMemory,
        sequence: usize,
        positions: usize,
    ) -> Result<()>;

    /// Reads the pictures of prompts for the next forward, which takes them from `memory`; returns
    /// how many patches they have. Waits for the device, so that the time can be measured.
    fn read_pictures(
        &self,
        prompts: &mut dyn Iterator<Item = UnreadPrompt<'_>>,
        memory: &mut dyn SessionMemory,
    ) -> Result<usize>;
    /// Reads one picture, waits for the device and drops the result.
    fn read_picture(&self, visual: &Visual) -> Result<()>;

    /// One forward, which writes its logits [rows, V].
    fn forward(
        &self,
        input: ForwardInput<'_>,
        memory: &mut dyn SessionMemory,
        logits: &mut Vec<f32>,
    ) -> Result<()>;
    /// Logits [T, V] of one prompt.
    fn logits(&self, prompt: &Prompt) -> Result<Vec<f32>>;
}

/// What a forward reads, in the memory of the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ForwardInput<'a> {
    /// Token ids `[T]`.
    pub(crate) ids: &'a [u32],
    /// Which sequence each token is of, and which place it has there.
    pub(crate) batch: &'a Batch,
    /// Where each token stands `[T]`.
    pub(crate) positions: &'a [Position],
    /// The tokens whose logits are computed.
    pub(crate) logits: LogitsRows,
    /// Which of the chosen backends runs the experts.
    pub(crate) phase: Phase,
}

/// A prompt whose tokens from `start` on are read by the next forward, the first as row `first_row`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnreadPrompt<'a> {
    pub(crate) prompt: &'a Prompt,
    pub(crate) start: usize,
    pub(crate) first_row: usize,
}

/// What compiling a model made: its plans, and copies of weights. Clones share it.
#[derive(Clone)]
pub struct CompiledPlans(pub(super) Arc<dyn Any + Send + Sync>);

impl fmt::Debug for CompiledPlans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledPlans").finish_non_exhaustive()
    }
}

/// The most tokens of a sequence: devices count positions in 32 bits.
const MOST_POSITIONS: usize = i32::MAX as usize;

/// Whether a sequence of that many tokens can be computed. How long the sequences were that the model
/// was trained on is no limit.
///
/// # Errors
/// [`Error::ContextExceeded`] if it cannot.
pub(crate) fn check_context(tokens: usize) -> Result<()> {
    let context = MOST_POSITIONS;
    if tokens > context { Err(Error::ContextExceeded { tokens, context }) } else { Ok(()) }
}

/// The error of a picture for a model without a vision tower.
pub(super) fn text_only(origin: &str, spec: &DecoderSpec) -> Error {
    let multimodal = FAMILIES.iter().filter(|family| family.task() == Task::ImageTextToText);
    Error::TextOnly {
        origin: origin.to_owned(),
        model_type: spec.model_type.clone(),
        multimodal: multimodal.map(|family| family.model_type).collect(),
    }
}
