//! A graph with its kernels resolved and its values in a workspace.

use std::{collections::HashMap, sync::Arc};

use moexperts_core::{AttentionCall, Device, ExpertsBackend, ExpertsCall, SharedSlices};

use super::{
    class::ShapeClass,
    graph::{Cost, Graph, Node, Op, Rows, Shape, Value},
};
use crate::{error::Result, experts_implementation::Phase, model::Forward};

/// Layers of one input that an operation takes at once.
const MAX_LINEARS: usize = 8;

/// A forward on the shapes of a class: its steps in order, and where their values lie.
#[derive(Debug)]
pub(crate) struct Plan<D: Device> {
    pub(super) class: ShapeClass,
    /// What runs the routed experts.
    pub(super) backend: Arc<dyn ExpertsBackend<D>>,
    pub(super) steps: Vec<Step<D>>,
    /// The most values of each tensor of the workspace.
    tensors: Vec<usize>,
    /// The most pairs of each routing.
    routings: Vec<usize>,
    output: usize,
}

/// An operation with the device it runs on, which carries the settings of its kernels.
#[derive(Debug)]
pub(super) struct Step<D: Device> {
    pub(super) op: Op<D>,
    pub(super) device: D,
    pub(super) parts: Vec<&'static str>,
    pub(super) layer: Option<usize>,
    pub(super) cost: Cost,
    /// Rows it computes.
    pub(super) rows: usize,
    reads: Vec<usize>,
    writes: Vec<usize>,
    /// Of what it writes.
    shapes: Vec<Shape>,
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
        let mut places = Places::of(&graph, class);
        let mut steps = Vec::with_capacity(graph.nodes.len());
        for (index, node) in graph.nodes.iter().enumerate() {
            places.begin(index, node);
        }
        let slots = places.slots;
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
        let (tensors, routings) = (places.tensors.sizes, places.routings.sizes);
        Self { class, backend, steps, tensors, routings, output }
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
        // Every step has the same memory.
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
        workspace.fit(self)?;
        self.steps.iter().try_for_each(|step| run(step, workspace, call))
    }
}

/// Which place of a workspace each value takes.
struct Places {
    shapes: Vec<Shape>,
    class: ShapeClass,
    last_use: HashMap<Value, usize>,
    slots: HashMap<Value, usize>,
    tensors: Pool,
    routings: Pool,
}

/// Places of one kind.
#[derive(Default)]
struct Pool {
    sizes: Vec<usize>,
    free: Vec<usize>,
}

impl Pool {
    /// The free place that fits best, grown if it has to, or a new one.
    fn take(&mut self, size: usize) -> usize {
        let waste = |&place: &usize| {
            let held = self.sizes[place];
            // One that is too small costs what it has to grow by.
            if held >= size { (0, held - size) } else { (1, size - held) }
        };
        let best = (0..self.free.len()).min_by_key(|&index| waste(&self.free[index]));
        match best {
            Some(index) => {
                let place = self.free.swap_remove(index);
                self.sizes[place] = self.sizes[place].max(size);
                place
            }
            None => {
                self.sizes.push(size);
                self.sizes.len() - 1
            }
        }
    }
}

impl Places {
    fn of<D: Device>(graph: &Graph<D>, class: ShapeClass) -> Self {
        let mut last_use = HashMap::new();
        for (index, node) in graph.nodes.iter().enumerate() {
            for value in node.reads.iter().chain(&node.writes) {
                last_use.insert(*value, index);
            }
        }
        last_use.insert(graph.output, graph.nodes.len());
        Self {
            shapes: graph.values.clone(),
            class,
            last_use,
            slots: HashMap::new(),
            tensors: Pool::default(),
            routings: Pool::default(),
        }
    }

    /// Places for what node `index` writes; what it uses for the last time is free after it.
    fn begin<D: Device>(&mut self, index: usize, node: &Node<D>) {
        for value in &node.writes {
            if self.slots.contains_key(value) {
                continue;
            }
            let place = match self.shapes[value.0] {
                Shape::Tensor { rows: Rows::Tokens, cols } => {
                    self.tensors.take(self.class.tokens * cols)
                }
                Shape::Tensor { rows: Rows::Logits, cols } => {
                    self.tensors.take(self.class.logits_rows * cols)
                }
                Shape::Routing { experts_per_token } => {
                    self.routings.take(self.class.tokens * experts_per_token)
                }
            };
            self.slots.insert(*value, place);
        }
        let mut used: Vec<Value> = node.reads.iter().chain(&node.writes).copied().collect();
        used.sort_unstable();
        used.dedup();
        for value in used {
            if self.last_use[&value] == index {
                let pool = match self.shapes[value.0] {
                    Shape::Tensor { .. } => &mut self.tensors,
                    Shape::Routing { .. } => &mut self.routings,
                };
                pool.free.push(self.slots[&value]);
            }
        }
    }
}

/// The values of one caller's compiled forwards, and the plan of its last one.
#[derive(Debug)]
pub(crate) struct Workspace<D: Device> {
    tensors: Vec<D::Tensor>,
    /// What each tensor has room for.
    sizes: Vec<usize>,
    routings: Vec<D::Routing>,
    pairs: Vec<usize>,
    pub(crate) last: Option<LastPlan<D>>,
}

/// The plan of a caller's last forward, and when it is that of the next.
#[derive(Debug)]
pub(crate) struct LastPlan<D: Device> {
    /// The number of the model's state.
    pub(crate) state: u64,
    pub(crate) phase: Phase,
    pub(crate) plan: Arc<Plan<D>>,
}

impl<D: Device> Default for Workspace<D> {
    fn default() -> Self {
        Self {
            tensors: Vec::new(),
            sizes: Vec::new(),
            routings: Vec::new(),
            pairs: Vec::new(),
            last: None,
        }
    }
}

impl<D: Device> Workspace<D> {
    /// Makes room for what a plan needs, where there is less.
    fn fit(&mut self, plan: &Plan<D>) -> Result<()> {
        let Some(device) = plan.steps.first().map(|step| &step.device) else { return Ok(()) };
        for (place, &size) in plan.tensors.iter().enumerate() {
            if place == self.tensors.len() {
                self.tensors.push(D::Tensor::default());
                self.sizes.push(0);
            }
            if self.sizes[place] < size {
                self.tensors[place] = device.new_tensor(size)?;
                self.sizes[place] = size;
            }
        }
        for (place, &pairs) in plan.routings.iter().enumerate() {
            if place == self.routings.len() {
                self.routings.push(D::Routing::default());
                self.pairs.push(0);
            }
            if self.pairs[place] < pairs {
                self.routings[place] = device.new_routing(pairs)?;
                self.pairs[place] = pairs;
            }
        }
        Ok(())
    }

    /// Gives `work` some tensors to write and all the others to read.
    fn write<const N: usize>(
        &mut self,
        places: [usize; N],
        work: impl FnOnce(&mut [D::Tensor; N], &[D::Tensor]) -> Result<()>,
    ) -> Result<()> {
        let mut written = places.map(|place| std::mem::take(&mut self.tensors[place]));
        let result = work(&mut written, &self.tensors);
        for (place, tensor) in places.into_iter().zip(written) {
            self.tensors[place] = tensor;
        }
        result
    }
}

impl<D: Device> Step<D> {
    /// Experts that each token goes to.
    pub(super) fn experts_per_token(&self) -> usize {
        let Op::Experts { experts, .. } = &self.op else { return 0 };
        let once = 2 * self.rows * experts.spec().weights_per_expert();
        (self.cost.flops / once.max(1) as f64).round() as usize
    }

    /// Rows that pass weights together; of an expert, if all are as likely.
    pub(super) fn rows_at_once(&self) -> usize {
        let Op::Experts { experts, backend } = &self.op else { return self.rows };
        if !backend.groups_tokens() {
            return 1;
        }
        let spec = experts.spec();
        let hit = self.cost.bytes / spec.bytes_per_expert().max(1) as f64;
        let pairs = self.cost.flops / (2 * spec.weights_per_expert()).max(1) as f64;
        (pairs / hit.max(1.0)).round().max(1.0) as usize
    }

    /// Gives what it would write its shape, the values being whatever there is.
    ///
    /// # Errors
    /// If the device has no room for it.
    pub(super) fn pass_over(
        &self,
        workspace: &mut Workspace<D>,
        call: &Forward<'_, D>,
    ) -> Result<()> {
        let tokens = call.input.batch.tokens();
        for (&place, shape) in self.writes.iter().zip(&self.shapes) {
            let Shape::Tensor { rows, cols } = *shape else { continue };
            let rows = match rows {
                Rows::Tokens => tokens,
                Rows::Logits => call.session.inputs.logits_rows().map_or(tokens, <[_]>::len),
            };
            self.device.reset_tensor(&mut workspace.tensors[place], rows, cols)?;
        }
        Ok(())
    }

    /// Runs the operation.
    ///
    /// # Errors
    /// As the operation of the device.
    pub(super) fn run(
        &self,
        workspace: &mut Workspace<D>,
        call: &mut Forward<'_, D>,
    ) -> Result<()> {
        let (device, reads, writes) = (&self.device, &self.reads, &self.writes);
        match &self.op {
            Op::Embed(table) => workspace.write([writes[0]], |[out], _| {
                Ok(device.embed(&table.weight, call.input.ids, out)?)
            }),
            Op::PutVisuals => workspace.write([writes[0]], |[x], _| {
                for visual in call.input.visuals {
                    device.put_rows(x, &visual.rows, &visual.features.embeddings)?;
                }
                Ok(())
            }),
            Op::AddDeepstack => workspace.write([writes[0]], |[x], _| {
                for visual in call.input.visuals {
                    let features = &visual.features.deepstack;
                    if let Some(features) = self.layer.and_then(|layer| features.get(layer)) {
                        device.add_rows(x, &visual.rows, features)?;
                    }
                }
                Ok(())
            }),
            Op::RmsNorm { weight, eps } => workspace.write([writes[0]], |[out], all| {
                Ok(device.rms_norm(&all[reads[0]], weight, *eps, out)?)
            }),
            Op::AddRmsNorm { weight, eps } => workspace
                .write([writes[0], writes[1]], |[x, out], all| {
                    Ok(device.add_rms_norm(x, &all[reads[0]], weight, *eps, out)?)
                }),
            Op::Linear(linears) => self.linear(linears, workspace, call),
            Op::Clamp(limit) => workspace.write([writes[0]], |[x], _| Ok(device.clamp(x, *limit)?)),
            Op::Rope { head_dim } => {
                let [cos, sin] = &call.session.inputs.angles;
                for &place in writes {
                    workspace.write([place], |[x], _| Ok(device.rope(x, *head_dim, cos, sin)?))?;
                }
                Ok(())
            }
            Op::Attention(spec) => workspace.write([writes[0]], |[out], all| {
                let session = &mut *call.session;
                let qkv = [&all[reads[0]], &all[reads[1]], &all[reads[2]]];
                let layer = self.layer.unwrap_or(0);
                let (cache, scratch) = (&mut session.cache, &mut session.scratch);
                let batch = call.input.batch;
                let call = AttentionCall { qkv, cache, layer, batch, spec, scratch };
                Ok(device.attention(call, out)?)
            }),
            Op::Add => workspace.write([writes[0]], |[x], all| Ok(device.add(x, &all[reads[0]])?)),
            Op::Route(spec) => {
                let Workspace { tensors, routings, .. } = workspace;
                let routing = &mut routings[writes[0]];
                Ok(device.route(&tensors[reads[0]], spec, None, routing)?)
            }
            Op::Router { linears, spec, shared_slices } => {
                self.linear(linears, workspace, call)?;
                let Workspace { tensors, routings, .. } = workspace;
                let gate = (*shared_slices > 0).then(|| &tensors[writes[1]]);
                let shared =
                    gate.map(|gate| SharedSlices { slices: *shared_slices, gate: Some(gate) });
                let routing = &mut routings[writes[linears.len()]];
                Ok(device.route(&tensors[writes[0]], spec, shared, routing)?)
            }
            Op::RouteAll => {
                let routing = &mut workspace.routings[writes[0]];
                Ok(device.route_all(call.input.batch.tokens(), routing)?)
            }
            Op::Experts { experts, backend } => {
                let (tokens, hidden) = (call.input.batch.tokens(), experts.spec().hidden);
                let scratch = &mut call.session.scratch;
                let mut out = std::mem::take(&mut workspace.tensors[writes[0]]);
                let (x, routing) = (&workspace.tensors[reads[0]], &workspace.routings[reads[1]]);
                let call = ExpertsCall { device, experts, x, routing, scratch };
                let result = device
                    .reset_tensor(&mut out, tokens, hidden)
                    .and_then(|()| backend.forward(call, &mut out));
                workspace.tensors[writes[0]] = out;
                Ok(result?)
            }
            Op::Activate(activation) => workspace.write([writes[0]], |[up], all| {
                Ok(device.activate(*activation, Some(&all[reads[0]]), up)?)
            }),
            Op::AddGated => workspace.write([writes[0]], |[x], all| {
                Ok(device.add_gated(x, &all[reads[0]], &all[reads[1]])?)
            }),
            Op::SelectLogitsRows => {
                let rows = call.session.inputs.logits_rows().unwrap_or_default();
                workspace.write([writes[0]], |[out], all| {
                    Ok(device.select_rows(&all[reads[0]], rows, out)?)
                })
            }
        }
    }

    /// The products of some layers with one input.
    fn linear(
        &self,
        linears: &[Arc<moexperts_core::DeviceLinear<D>>],
        workspace: &mut Workspace<D>,
        call: &mut Forward<'_, D>,
    ) -> Result<()> {
        let scratch = &mut call.session.scratch;
        for (linears, places) in linears.chunks(MAX_LINEARS).zip(self.writes.chunks(MAX_LINEARS)) {
            let count = linears.len();
            let mut outs: [D::Tensor; MAX_LINEARS] = Default::default();
            for (out, &place) in outs.iter_mut().zip(places).take(count) {
                *out = std::mem::take(&mut workspace.tensors[place]);
            }
            let refs: [_; MAX_LINEARS] =
                std::array::from_fn(|index| &*linears[index.min(count - 1)]);
            let x = &workspace.tensors[self.reads[0]];
            let result = self.device.linear(x, &refs[..count], scratch, &mut outs[..count]);
            for (out, &place) in outs.iter_mut().zip(places).take(count) {
                workspace.tensors[place] = std::mem::take(out);
            }
            result?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use moexperts_core::ExpertsInterface;
    use moexperts_cpu::{Cpu, CpuOptions};

    use super::*;
    use crate::{
        compile::{
            fuse::{JoinedExperts, fuse},
            trace::trace,
        },
        experts_implementation::DEFAULT,
        families,
        files::ModelFiles,
        model::{Decoder, LogitsRows, Weights},
    };

    const CASES: [&str; 7] = [
        "qwen2_moe",
        "qwen2_moe_window",
        "qwen3_moe",
        "qwen3_moe_fused",
        "olmoe",
        "mixtral",
        "qwen3_vl_moe",
    ];

    fn decoder(case: &str) -> Decoder<Cpu> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(case);
        let files = ModelFiles::open(&folder).unwrap();
        let cpu = Cpu::new(CpuOptions::default()).unwrap();
        let mut weights = Weights::new(&cpu, &files.checkpoint, None, &());
        Decoder::load(families::describe(&files.config).unwrap().text, &mut weights).unwrap()
    }

    fn classes() -> Vec<ShapeClass> {
        let mut classes = vec![ShapeClass::decode(1), ShapeClass::decode(3)];
        for (tokens, sequences) in [(7, 1), (40, 3), (100, 64)] {
            let class = ShapeClass::prefill(tokens, sequences);
            let all = ShapeClass { logits: LogitsRows::All, logits_rows: class.tokens, ..class };
            classes.extend([class, all]);
            classes.extend([class, all].map(|class| ShapeClass { visuals: Some(2), ..class }));
        }
        classes
    }

    fn graph(
        decoder: &Decoder<Cpu>,
        backend: &Arc<dyn ExpertsBackend<Cpu>>,
        class: ShapeClass,
    ) -> Graph<Cpu> {
        let mut graph = trace(decoder, backend, class).unwrap();
        let dense = ExpertsInterface::get(DEFAULT).unwrap();
        fuse(&mut graph, decoder.device(), class.tokens, &dense, &JoinedExperts::default());
        graph
    }

    /// Calls `check` with the graph and the plan of every case, backend and class.
    fn every_plan(mut check: impl FnMut(&str, &Decoder<Cpu>, Nodes, &Plan<Cpu>)) {
        for case in CASES {
            let decoder = decoder(case);
            for backend in Cpu::built_in_experts() {
                for class in classes() {
                    let what = format!("{case}, {}, {class}", backend.name());
                    let graph = graph(&decoder, &backend, class);
                    let nodes = Nodes {
                        reads: graph.nodes.iter().map(|node| node.reads.clone()).collect(),
                        writes: graph.nodes.iter().map(|node| node.writes.clone()).collect(),
                        values: graph.values.clone(),
                        output: graph.output,
                    };
                    let plan = Plan::new(decoder.device(), graph, class, Arc::clone(&backend));
                    assert_eq!(plan.steps.len(), nodes.reads.len(), "{what}");
                    check(&what, &decoder, nodes, &plan);
                }
            }
        }
    }

    /// What a graph reads and writes; the graph itself goes into the plan.
    struct Nodes {
        reads: Vec<Vec<Value>>,
        writes: Vec<Vec<Value>>,
        values: Vec<Shape>,
        output: Value,
    }

    impl Nodes {
        fn is_routing(&self, value: Value) -> bool {
            matches!(self.values[value.0], Shape::Routing { .. })
        }

        /// Values or pairs of a value, for the largest shape of a class.
        fn len(&self, value: Value, class: ShapeClass) -> usize {
            match self.values[value.0] {
                Shape::Tensor { rows: Rows::Tokens, cols } => class.tokens * cols,
                Shape::Tensor { rows: Rows::Logits, cols } => class.logits_rows * cols,
                Shape::Routing { experts_per_token } => class.tokens * experts_per_token,
            }
        }
    }

    /// Follows what lies in each place from step to step: a value that another was put over too
    /// early is not there when it is read.
    #[test]
    fn every_value_is_still_in_its_place_when_it_is_read() {
        every_plan(|what, _, nodes, plan| {
            // By kind and place.
            let mut holds: HashMap<(bool, usize), Value> = HashMap::new();
            let mut place_of: HashMap<Value, usize> = HashMap::new();
            for (index, step) in plan.steps.iter().enumerate() {
                let what = format!("{what}: step {index}, {}", step.op.name());
                let reads = nodes.reads[index].iter().zip(&step.reads);
                let writes = nodes.writes[index].iter().zip(&step.writes);
                assert_eq!(reads.len(), step.reads.len(), "{what}");
                assert_eq!(writes.len(), step.writes.len(), "{what}");
                for (value, &place) in reads {
                    let held = holds.get(&(nodes.is_routing(*value), place));
                    assert_eq!(held, Some(value), "{what} reads place {place}");
                }
                let mut touched: Vec<(bool, usize)> = Vec::new();
                let all = nodes.reads[index].iter().zip(&step.reads).chain(writes.clone());
                for (value, &place) in all {
                    touched.push((nodes.is_routing(*value), place));
                }
                touched.sort_unstable();
                assert!(touched.windows(2).all(|pair| pair[0] != pair[1]), "{what}: {touched:?}");
                for (value, &place) in writes {
                    let kind = nodes.is_routing(*value);
                    // What was written before is changed in place, and so has to be there.
                    if let Some(&before) = place_of.get(value) {
                        assert_eq!(before, place, "{what}");
                        assert_eq!(holds.get(&(kind, place)), Some(value), "{what}");
                    }
                    place_of.insert(*value, place);
                    holds.insert((kind, place), *value);
                    let room = if kind { &plan.routings } else { &plan.tensors };
                    assert!(nodes.len(*value, plan.class) <= room[place], "{what}");
                }
            }
            assert_eq!(holds.get(&(false, plan.output)), Some(&nodes.output), "{what}: the logits");
        });
    }

    #[test]
    fn the_workspace_is_smaller_than_all_values_together() {
        every_plan(|what, _, nodes, plan| {
            let mut written: Vec<Value> = nodes.writes.iter().flatten().copied().collect();
            written.sort_unstable();
            written.dedup();
            let bytes = |&value: &Value| {
                nodes.len(value, plan.class) * if nodes.is_routing(value) { 8 } else { 4 }
            };
            let all: usize = written.iter().map(bytes).sum();
            let largest = written.iter().map(bytes).max().unwrap_or(0);
            let got = plan.workspace_bytes();
            assert!(largest <= got && got < all, "{what}: {got} of {all}, largest {largest}");
        });
    }

    #[test]
    fn a_plan_breaks_at_the_routed_experts_of_a_backend_that_reads_the_routing() {
        every_plan(|what, decoder, _, plan| {
            let routed = decoder.experts().count();
            let breaks: Vec<&Step<Cpu>> = plan.breaks().map(|(step, _)| step).collect();
            if plan.backend.name() != "eager" {
                assert_eq!((plan.pieces(), breaks.len()), (1, 0), "{what}");
                return;
            }
            // Dense layers run on a backend that does not read it.
            assert_eq!(breaks.len(), routed, "{what}");
            assert!(breaks.iter().all(|step| step.op.name() == "experts"), "{what}");
            assert!(breaks.windows(2).all(|pair| pair[0].layer < pair[1].layer), "{what}");
            assert_eq!(plan.pieces(), routed + 1, "{what}");
        });
    }
}
