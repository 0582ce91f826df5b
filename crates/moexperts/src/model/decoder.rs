//! A decoder on a device: its graph, and forwards over it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use moexperts_core::{Device, Experts, ExpertsBackend, Scratch};

use super::{
    inputs::{Input, Inputs},
    spec::DecoderSpec,
};
use crate::{
    error::Result,
    graph::{Builder, Feed, Graph, Observer, Op, Pixels, Program, RowCounts, Run, Step, Workspace},
    weights::Weights,
};

/// The forward that the workspace of a model that is not compiled is laid out for.
const ONE_TOKEN: RowCounts = RowCounts { tokens: 1, logits: 1 };

/// A decoder and its weights on a device.
#[derive(Debug)]
pub struct Decoder<D: Device> {
    device: D,
    /// Unique within the process.
    number: u64,
    spec: DecoderSpec,
    graph: Graph<D>,
    program: Program<D>,
    experts: Vec<Arc<Experts<D::Experts>>>,
}

/// What a decoder keeps for one caller from forward to forward.
#[derive(Debug)]
pub(crate) struct Memory<D: Device> {
    pub(crate) state: D::State,
    scratch: Scratch,
    inputs: Inputs<D>,
    workspace: Workspace<D>,
}

/// The arguments of one forward.
pub(crate) struct Forward<'a, D: Device> {
    pub(crate) input: Input<'a, D>,
    pub(crate) memory: &'a mut Memory<D>,
    /// What executes the routed experts.
    pub(crate) experts: &'a dyn ExpertsBackend<D::Experts>,
    pub(crate) observer: Option<Observer<'a, D>>,
}

impl<D: Device> fmt::Debug for Forward<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward")
            .field("input", &self.input)
            .field("experts", &self.experts)
            .finish_non_exhaustive()
    }
}

impl<D: Device> Decoder<D> {
    /// Builds the graph of `spec` over the weights of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Checkpoint`](crate::Error::Checkpoint) for a tensor that is missing or of another
    /// shape; [`Error::Core`](crate::Error::Core) for an operation that the device does not have.
    pub fn load(spec: DecoderSpec, weights: &mut Weights<'_, D>) -> Result<Self> {
        let device = weights.device().clone();
        let graph = build(&spec, weights)?;
        check_operations(&graph, &device)?;
        let experts = graph.nodes.iter().filter_map(|node| match &node.op {
            Op::Experts { experts, .. } => Some(Arc::clone(experts)),
            _ => None,
        });
        static LOADED: AtomicU64 = AtomicU64::new(0);
        Ok(Self {
            experts: experts.collect(),
            program: Program::new(&device, graph.clone(), ONE_TOKEN),
            number: LOADED.fetch_add(1, Ordering::Relaxed),
            device,
            spec,
            graph,
        })
    }

    /// Where it computes.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Tells it from every other decoder of this process.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Its description.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// The forward as it was built.
    pub(crate) fn graph(&self) -> &Graph<D> {
        &self.graph
    }

    /// The experts of each Mixture-of-Experts layer, in order.
    pub fn experts(&self) -> &[Arc<Experts<D::Experts>>] {
        &self.experts
    }

    /// Memory for a number of sequences, which are empty.
    ///
    /// # Errors
    /// If the device is out of memory.
    pub(crate) fn memory(&self, sequences: usize) -> Result<Memory<D>> {
        Ok(Memory {
            state: self.device.new_state(&self.spec.states(), sequences)?,
            scratch: Scratch::default(),
            inputs: Inputs::default(),
            workspace: Workspace::default(),
        })
    }

    /// The forward as it was built.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) fn forward(&self, call: Forward<'_, D>, logits: &mut Vec<f32>) -> Result<()> {
        self.run(&self.program, ONE_TOKEN, false, call, logits)
    }

    /// Runs a program of this decoder's forward and writes the logits [rows, V], row-major.
    ///
    /// - `at_most`: the largest forward that the program is for, which its workspace is made for
    /// - `captured`: whether the device may capture the work, to launch it as one
    ///
    /// # Errors
    /// For a token id beyond the vocabulary, a span beyond what its sequence holds, router logits
    /// that are not finite, and what the backend or the device returns.
    pub(crate) fn run(
        &self,
        program: &Program<D>,
        at_most: RowCounts,
        captured: bool,
        call: Forward<'_, D>,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let Forward { input, memory, experts, observer } = call;
        let Memory { state, scratch, inputs, workspace } = memory;
        program.enter(workspace, captured, |workspace| {
            inputs.prepare(&self.device, &self.spec.ropes, &input)?;
            program.fit(workspace, at_most)?;
            let mut run = run_of(&input, inputs, state, scratch, experts, observer);
            program.run(&mut run, workspace)?;
            program.read(workspace, 0, logits)
        })
    }

    /// Runs the program with another way through each step, for measurements.
    ///
    /// # Errors
    /// As [`run`](Self::run) and `work`.
    pub(crate) fn measure(
        &self,
        program: &Program<D>,
        call: Forward<'_, D>,
        mut work: impl FnMut(usize, &Step<D>, &mut Workspace<D>, &mut Run<'_, D>) -> Result<()> + Send,
    ) -> Result<()> {
        let Forward { input, memory, experts, observer } = call;
        let Memory { state, scratch, inputs, workspace } = memory;
        program.enter(workspace, false, |workspace| {
            inputs.prepare(&self.device, &self.spec.ropes, &input)?;
            let mut run = run_of(&input, inputs, state, scratch, experts, observer);
            program.run_steps(&mut run, workspace, &mut work)
        })
    }
}

fn run_of<'a, D: Device>(
    input: &Input<'a, D>,
    inputs: &'a Inputs<D>,
    state: &'a mut D::State,
    scratch: &'a mut Scratch,
    experts: &'a dyn ExpertsBackend<D::Experts>,
    observer: Option<Observer<'a, D>>,
) -> Run<'a, D> {
    let feed = Feed {
        batch: input.batch,
        ids: input.ids,
        visuals: input.visuals,
        logits_rows: &inputs.logits_rows,
        angles: &inputs.angles,
        pixels: Pixels::default(),
    };
    Run { feed, state: Some(state), scratch, experts: Some(experts), observer }
}

/// The forward of a decoder: logits [rows, V].
fn build<D: Device>(spec: &DecoderSpec, weights: &mut Weights<'_, D>) -> Result<Graph<D>> {
    let mut graph = Builder::new();
    let embed_tokens = weights.linear(&spec.name("embed_tokens"))?;
    let x = graph.embed(Arc::clone(&embed_tokens));
    graph.scale("embedding_multiplier", x, spec.embedding_multiplier);
    graph.put_visuals(x);
    for (index, layer) in spec.layers.iter().enumerate() {
        graph.set_layer(Some(index));
        let module = spec.name(&format!("layers.{index}"));
        layer.build(spec.context(), index, &module, weights, &mut graph, x)?;
        graph.add_deepstack(x, index);
    }
    graph.set_layer(None);
    let x = graph.select_logits_rows(x);
    let normed = graph.rms_norm("norm", x, weights.norm(&spec.name("norm"))?, spec.rms_norm_eps);
    let lm_head = match spec.tie_word_embeddings {
        true => embed_tokens,
        false => weights.linear("lm_head")?,
    };
    let logits = graph.linear("lm_head", normed, lm_head);
    graph.scale("logits_scaling", logits, 1.0 / spec.logits_scaling);
    Ok(graph.finish(vec![logits]))
}

/// Whether a device has every operation of a graph, in the forms that it needs.
///
/// # Errors
/// The first refusal, which names the operation.
pub(super) fn check_operations<D: Device>(graph: &Graph<D>, device: &D) -> Result<()> {
    for operation in graph.operations() {
        device.check_operation(operation)?;
    }
    for node in &graph.nodes {
        match &node.op {
            Op::Attention { spec, sinks, .. } => device.check_attention(spec, sinks.is_some())?,
            Op::Route(router) => {
                let experts = graph.cols(node.reads[0]);
                device.check_router(&router.spec, experts, router.pick_bias.is_some())?;
            }
            _ => {}
        }
    }
    Ok(())
}
