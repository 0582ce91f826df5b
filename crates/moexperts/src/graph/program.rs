//! A graph whose values have their places, ready to run.

use std::sync::atomic::{AtomicU64, Ordering};

use moexperts_core::Device;

use super::{
    feed::Run,
    nodes::Graph,
    places::Places,
    step::Step,
    values::{RowCounts, Value},
    workspace::{PlaceSize, Workspace},
};
use crate::error::Result;

/// The steps of a forward in order, and where their values lie.
#[derive(Debug)]
pub(crate) struct Program<D: Device> {
    /// Unique within the process.
    pub(crate) number: u64,
    device: D,
    pub(crate) steps: Vec<Step<D>>,
    tensors: Vec<PlaceSize>,
    routings: Vec<PlaceSize>,
    pub(crate) outputs: Vec<usize>,
}

impl<D: Device> Program<D> {
    /// - `counts`: the forward that the workspace is to be small for, and whose costs the steps say;
    ///   every other runs too
    pub(crate) fn new(device: &D, graph: Graph<D>, counts: RowCounts) -> Self {
        let places = Places::new(&graph, counts);
        let costs: Vec<_> = graph
            .nodes
            .iter()
            .map(|node| (graph.cost(node, counts), graph.rows(node, counts)))
            .collect();
        let Graph { nodes, values, outputs } = graph;
        let of = |values: &[Value]| values.iter().map(|value| places.of[value]).collect();
        let steps = nodes.into_iter().zip(costs).map(|(node, (cost, rows))| Step {
            reads: of(&node.reads),
            writes: of(&node.writes),
            shapes: node.writes.iter().map(|value| values[value.0]).collect(),
            device: device.clone(),
            parts: node.parts,
            layer: node.layer,
            shows: node.shows,
            op: node.op,
            cost,
            rows,
        });
        let steps = steps.collect();
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            device: device.clone(),
            steps,
            outputs: of(&outputs),
            tensors: places.tensors,
            routings: places.routings,
        }
    }

    /// Bytes of its values in a forward: activations in f32, routings as an id and a weight a pair.
    pub(crate) fn workspace_bytes(&self, counts: RowCounts) -> usize {
        let values =
            |places: &[PlaceSize]| places.iter().map(|place| place.values(counts)).sum::<usize>();
        4 * values(&self.tensors) + 8 * values(&self.routings)
    }

    /// Makes the workspace large enough for forwards of up to `counts`.
    ///
    /// # Errors
    /// If the device is out of memory.
    pub(crate) fn fit(&self, workspace: &mut Workspace<D>, counts: RowCounts) -> Result<()> {
        workspace.fit(&self.device, &self.tensors, &self.routings, counts)
    }

    /// Runs the steps; the outputs are in the workspace.
    ///
    /// # Errors
    /// As the operations.
    pub(crate) fn run(&self, run: &mut Run<'_, D>, workspace: &mut Workspace<D>) -> Result<()> {
        self.run_steps(run, workspace, |_, step, workspace, run| step.run(workspace, run))
    }

    /// Gives each step and its index to `run_step`, in order.
    ///
    /// # Errors
    /// The first that it returns.
    pub(crate) fn run_steps(
        &self,
        run: &mut Run<'_, D>,
        workspace: &mut Workspace<D>,
        mut run_step: impl FnMut(usize, &Step<D>, &mut Workspace<D>, &mut Run<'_, D>) -> Result<()>,
    ) -> Result<()> {
        self.fit(workspace, run.feed.counts())?;
        for (index, step) in self.steps.iter().enumerate() {
            run_step(index, step, workspace, run)?;
            if let (Some(observer), Some(stage)) = (&mut run.observer, step.shows) {
                let Workspace { tensors, routings, .. } = &*workspace;
                observer(step.layer.unwrap_or(0), stage.of(step.writes[0], tensors, routings));
            }
        }
        Ok(())
    }

    /// Does `work`, which runs the program, where its operations start fastest; if `captured`, with
    /// what the device kept of the last run in this workspace.
    ///
    /// # Errors
    /// As `work`.
    pub(crate) fn enter<R: Send>(
        &self,
        workspace: &mut Workspace<D>,
        captured: bool,
        work: impl FnOnce(&mut Workspace<D>) -> Result<R> + Send,
    ) -> Result<R> {
        let mut recording = captured.then(|| workspace.take_recording(self.number));
        let result = self.device.enter_plan(recording.as_mut(), || work(workspace));
        if let Some(recording) = recording {
            workspace.keep_recording(self.number, recording);
        }
        result
    }

    /// Reads an output.
    ///
    /// # Errors
    /// If the device failed at an operation before.
    pub(crate) fn read(
        &self,
        workspace: &Workspace<D>,
        output: usize,
        values: &mut Vec<f32>,
    ) -> Result<()> {
        Ok(self.device.read_tensor(&workspace.tensors[self.outputs[output]], values)?)
    }

    /// Takes the outputs out of the workspace.
    pub(crate) fn take_outputs(&self, workspace: &mut Workspace<D>) -> Vec<D::Tensor> {
        self.outputs.iter().map(|&place| workspace.take(place)).collect()
    }

    /// The most values, or pairs, that a value of a step may have in its place.
    #[cfg(test)]
    pub(crate) fn held(
        &self,
        shape: super::values::ValueShape,
        place: usize,
        counts: RowCounts,
    ) -> usize {
        match shape {
            super::values::ValueShape::Tensor { .. } => self.tensors[place].values(counts),
            super::values::ValueShape::Routing { .. } => self.routings[place].values(counts),
        }
    }
}
