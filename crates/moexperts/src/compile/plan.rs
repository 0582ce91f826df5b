//! A graph with its kernels resolved and its values in a workspace.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use moexperts_core::{Device, ExpertsBackend};

use super::{
    class::ShapeClass,
    graph::{Cost, Graph, Rows, Shape, Value},
    places::Places,
    step::Step,
    workspace::Workspace,
};
use crate::{error::Result, model::Forward};

/// A forward on the shapes of a class: its steps in order, and where their values lie.
#[derive(Debug)]
pub(crate) struct Plan<D: Device> {
    /// No other plan's.
    pub(super) number: u64,
    pub(super) class: ShapeClass,
    /// What runs the routed experts.
    pub(super) backend: Arc<dyn ExpertsBackend<D>>,
    pub(super) steps: Vec<Step<D>>,
    /// The most values of each tensor of the workspace.
    tensors: Vec<usize>,
    /// The most pairs of each routing.
    routings: Vec<usize>,
    output: usize,
    /// Whether the device may capture its work, to launch it as one.
    pub(super) captured: bool,
}

impl<D: Device> Plan<D> {
    /// Gives every value of the graph a place in a workspace; values that are not needed at the
    /// same time share one.
    pub(super) fn new(
        device: &D,
        graph: Graph<D>,
        class: ShapeClass,
        backend: Arc<dyn ExpertsBackend<D>>,
    ) -> Self {
        let Places { slots, tensors, routings } = Places::of(&graph, class);
        let mut steps = Vec::with_capacity(graph.nodes.len());
        let costs: Vec<Cost> = graph
            .nodes
            .iter()
            .map(|node| graph.cost(node, class.tokens, class.logits_rows))
            .collect();
        for (node, cost) in graph.nodes.into_iter().zip(costs) {
            let rows = match node.writes.first().map(|value| graph.values[value.0]) {
                Some(Shape::Tensor { rows: Rows::Logits, .. }) => class.logits_rows,
                _ => class.tokens,
            };
            let slot = |values: &[Value]| values.iter().map(|value| slots[value]).collect();
            steps.push(Step {
                reads: slot(&node.reads),
                writes: slot(&node.writes),
                shapes: node.writes.iter().map(|value| graph.values[value.0]).collect(),
                device: device.clone(),
                parts: node.parts,
                layer: node.layer,
                op: node.op,
                cost,
                rows,
            });
        }
        let output = slots[&graph.output];
        let number = next_number();
        Self { number, class, backend, steps, tensors, routings, output, captured: false }
    }

    /// The shapes it is for.
    pub(crate) fn class(&self) -> ShapeClass {
        self.class
    }

    /// What runs the routed experts.
    pub(crate) fn backend(&self) -> &dyn ExpertsBackend<D> {
        &*self.backend
    }

    /// Bytes of the workspace: activations in f32, routings as a number and a weight a pair.
    pub(super) fn workspace_bytes(&self) -> usize {
        4 * self.tensors.iter().sum::<usize>() + 8 * self.routings.iter().sum::<usize>()
    }

    /// The steps at which the host has to wait, with the reason.
    pub(super) fn breaks(&self) -> impl Iterator<Item = (&Step<D>, &'static str)> {
        self.steps.iter().filter_map(|step| Some((step, step.op.break_reason()?)))
    }

    /// Steps between breaks that run without the host.
    pub(super) fn pieces(&self) -> usize {
        let is_break = |step: &Step<D>| step.op.break_reason().is_some();
        self.steps
            .chunk_by(|a, b| !is_break(a) && !is_break(b))
            .filter(|run| !is_break(&run[0]))
            .count()
    }

    /// Runs the steps and reads the logits; what the forward reads is on the device.
    ///
    /// # Errors
    /// As the operations.
    pub(super) fn run(
        &self,
        call: &mut Forward<'_, D>,
        workspace: &mut Workspace<D>,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        self.run_steps(call, workspace, Step::run)?;
        let Some(step) = self.steps.last() else { return Ok(()) };
        Ok(step.device.read_tensor(&workspace.tensors[self.output], logits)?)
    }

    /// Gives each step to `run`, in order.
    ///
    /// # Errors
    /// The first that it returns.
    pub(super) fn run_steps(
        &self,
        call: &mut Forward<'_, D>,
        workspace: &mut Workspace<D>,
        mut run: impl FnMut(&Step<D>, &mut Workspace<D>, &mut Forward<'_, D>) -> Result<()>,
    ) -> Result<()> {
        // Every step has the same memory.
        let Some(step) = self.steps.first() else { return Ok(()) };
        workspace.fit(&step.device, &self.tensors, &self.routings)?;
        self.steps.iter().try_for_each(|step| run(step, workspace, call))
    }
}

fn next_number() -> u64 {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests;
