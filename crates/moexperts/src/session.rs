//! What one caller of a model keeps from forward to forward.

use std::{any::Any, fmt};

use crate::{model::DecoderSpec, prompt::Prompt};

/// What a session holds on the device of its model: the states of layers and the workspace of
/// forwards, whose types only the model on that device knows.
pub(crate) trait SessionMemory: Any + fmt::Debug + Send {}

/// Sequences in progress: what the layers keep of them, and the memory of their forwards.
///
/// A session belongs to the model that made it; another model refuses it.
#[derive(Debug)]
pub struct Session {
    /// The number of the model.
    pub(crate) model: u64,
    pub(crate) memory: Box<dyn SessionMemory>,
    /// What the layers have read, by sequence.
    pub(crate) read: Vec<Prompt>,
    /// Whether a sequence was longer than what the model was trained for.
    past: bool,
}

impl Session {
    pub(crate) fn new(model: u64, memory: Box<dyn SessionMemory>, sequences: usize) -> Self {
        Self { model, memory, read: vec![Prompt::default(); sequences], past: false }
    }

    /// Says once that a sequence of `tokens` tokens is longer than what the model was trained for.
    pub(crate) fn warn_past(&mut self, tokens: usize, spec: &DecoderSpec) {
        if tokens > spec.trained_length() && !self.past {
            self.past = true;
            tracing::warn!(
                "the text is longer than the {} tokens that the model was trained for, and may get \
                 worse; a shorter prompt or fewer new tokens keep it within them",
                spec.trained_length()
            );
        }
    }

    /// The number of its sequences.
    pub fn sequences(&self) -> usize {
        self.read.len()
    }

    /// How many tokens of `prompt` a sequence has read: at most all but one, for one has to pass to
    /// give logits.
    pub(crate) fn shared(&self, sequence: usize, prompt: &Prompt) -> usize {
        self.read[sequence].shared(prompt).min(prompt.tokens().len().saturating_sub(1))
    }
}
