//! A program made for a class of shapes and a backend.

use std::sync::{Arc, Weak};

use moexperts_core::{Device, ExpertsBackend};

use super::class::ShapeClass;
use crate::{
    error::Result,
    experts_implementation::Phase,
    graph::{Graph, Program, Step, VisualFeatures},
    image_processor::PixelValues,
    model::{Decoder, Forward, VisionTower},
};

/// What a plan depends on of the backend of the routed experts. The backend itself is an argument of
/// running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackendTraits {
    pub(super) name: String,
    pub(super) is_built_in: bool,
    pub(super) reads_routing_on_host: bool,
    pub(super) groups_tokens: bool,
}

impl BackendTraits {
    pub(super) fn of<D: Device>(backend: &dyn ExpertsBackend<D>) -> Self {
        let name = backend.name().to_owned();
        Self {
            is_built_in: D::built_in_experts().iter().any(|built_in| built_in.name() == name),
            name,
            reads_routing_on_host: backend.reads_routing_on_host(),
            groups_tokens: backend.groups_tokens(),
        }
    }

    /// Of a graph without routed experts.
    pub(super) fn none() -> Self {
        Self {
            name: "no experts".to_owned(),
            is_built_in: true,
            reads_routing_on_host: false,
            groups_tokens: false,
        }
    }
}

/// A forward on the shapes of a class.
#[derive(Debug)]
pub(crate) struct Plan<D: Device> {
    pub(super) class: ShapeClass,
    pub(super) backend: BackendTraits,
    pub(super) program: Program<D>,
    /// Whether the device may capture its work, to launch it as one.
    pub(super) captured: bool,
}

/// The plan of a session's last forward, and when it is that of the next.
#[derive(Debug)]
pub(crate) struct LastPlan<D: Device> {
    /// The number of the model's state.
    pub(crate) state: u64,
    pub(crate) phase: Phase,
    pub(crate) plan: Arc<Plan<D>>,
    pub(crate) backend: Weak<dyn ExpertsBackend<D::Experts>>,
}

impl<D: Device> Plan<D> {
    pub(super) fn new(
        device: &D,
        graph: Graph<D>,
        class: ShapeClass,
        backend: BackendTraits,
    ) -> Self {
        let program = Program::new(device, graph, class.at_most());
        Self { class, backend, program, captured: false }
    }

    /// The shapes it is for.
    pub(crate) fn class(&self) -> ShapeClass {
        self.class
    }

    pub(super) fn steps(&self) -> &[Step<D>] {
        &self.program.steps
    }

    pub(super) fn workspace_bytes(&self) -> usize {
        self.program.workspace_bytes(self.class.at_most())
    }

    /// Why the host has to wait at a step, if it has to.
    pub(super) fn break_reason(&self, step: &Step<D>) -> Option<&'static str> {
        let breaks = step.op.runs_chosen_backend() && self.backend.reads_routing_on_host;
        breaks.then_some("reads on the host which experts were hit")
    }

    /// The steps at which the host has to wait, with the reason.
    pub(super) fn breaks(&self) -> impl Iterator<Item = (&Step<D>, &'static str)> {
        self.steps().iter().filter_map(|step| Some((step, self.break_reason(step)?)))
    }

    /// Runs of steps between breaks.
    pub(super) fn pieces(&self) -> usize {
        let is_break = |step: &Step<D>| self.break_reason(step).is_some();
        self.steps()
            .chunk_by(|a, b| !is_break(a) && !is_break(b))
            .filter(|run| !is_break(&run[0]))
            .count()
    }

    /// Writes the logits of a forward.
    ///
    /// # Errors
    /// As [`Decoder::run`].
    pub(crate) fn forward(
        &self,
        decoder: &Decoder<D>,
        call: Forward<'_, D>,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        decoder.run(&self.program, self.class.at_most(), self.captured, call, logits)
    }

    /// What a decoder reads of a picture.
    ///
    /// # Errors
    /// As [`VisionTower::features`].
    pub(crate) fn features(
        &self,
        tower: &VisionTower<D>,
        pixels: &PixelValues,
    ) -> Result<VisualFeatures<D>> {
        tower.run(&self.program, pixels)
    }
}

#[cfg(test)]
mod tests;
