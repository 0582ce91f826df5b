//! What one caller of a model keeps from forward to forward.

use moexperts_core::Device;

use crate::{compile::LastPlan, model::Memory, prompt::Prompt};

/// Sequences in progress: what the layers keep of them, and the memory of their forwards.
#[derive(Debug)]
pub struct Session<D: Device> {
    pub(crate) memory: Memory<D>,
    /// What the layers have read, by sequence.
    pub(crate) read: Vec<Prompt>,
    /// The plan of the last forward.
    pub(crate) last_plan: Option<LastPlan<D>>,
}

impl<D: Device> Session<D> {
    pub(crate) fn new(memory: Memory<D>, sequences: usize) -> Self {
        Self { memory, read: vec![Prompt::default(); sequences], last_plan: None }
    }

    /// Sequences it holds.
    pub fn sequences(&self) -> usize {
        self.read.len()
    }

    /// Where a sequence that is to become `prompt` goes on: what both share and every layer can go
    /// on from, at most all but one token, for one has to pass to give logits.
    pub(crate) fn go_on(&mut self, device: &D, sequence: usize, prompt: &Prompt) {
        let read = &mut self.read[sequence];
        let shared = read.shared(prompt).min(prompt.tokens().len().saturating_sub(1));
        let held = read.tokens().len();
        // A layer with a window has dropped what a token far before the last one sees.
        let start = match device.can_cut(&self.memory.state, sequence, shared) {
            true => shared,
            false => {
                tracing::info!(
                    sequence,
                    held,
                    shared,
                    "a layer does not hold what was read before: the prompt is read again"
                );
                0
            }
        };
        read.truncate(start);
    }
}
