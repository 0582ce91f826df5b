//! Which settings of the kernels are fastest here, on a model's own weights and shapes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use moexperts_core::{
    Batch, Device, DeviceLinear, Experts, ExpertsBackend, Knob, Linear, Rows, Span, Weight,
};

use super::{
    Subject,
    choices::{Choice, Choices},
    class::{Kind, ShapeClass},
    plan::Plan,
};
use crate::{
    error::Result,
    graph::{Op, Router, Run, RunBy, Step, Workspace},
    image_processor::PixelValues,
    model::{Decoder, Forward, Input, LogitsRows, Memory, VisionTower},
    progress::{Amount, Progress},
    prompt::Position,
};

/// How much faster a setting has to be than the default to be chosen: less is noise.
const WORTH_IT: f64 = 0.97;

/// Layers that are measured. What is alike in all layers need not be measured in all.
const LAYERS: usize = 4;

/// Times every setting of every operation is measured at least.
const SAMPLES: usize = 5;

/// Rows up to which an operation can pass through dot products alone, and from which on some of
/// its rows can fill a panel.
const FEW: usize = 16;
const MANY: usize = 4;

/// What is told of the measurements.
const WORK: &str = "autotuning";

/// Measures plans and remembers what was fastest.
#[derive(Debug)]
pub(super) struct Autotuner<D: Device> {
    choices: Mutex<Choices>,
    copies: Mutex<Copies<D>>,
}

/// Copies of weights that plans use, within a budget.
#[derive(Debug)]
struct Copies<D: Device> {
    left_bytes: usize,
    used_bytes: usize,
    linears: HashMap<usize, Arc<DeviceLinear<D>>>,
    experts: HashMap<usize, Arc<Experts<D::Experts>>>,
}

/// How the settings of a plan came about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tuned {
    /// Kinds of operations that were measured.
    pub(super) measured: usize,
    /// Kinds whose settings were known.
    pub(super) known: usize,
}

/// Steps that are alike, by what they have in common.
type Kinds = BTreeMap<String, Vec<usize>>;

impl<D: Device> Autotuner<D> {
    /// - `memory_bytes`: what copies of weights may take
    pub(super) fn new(choices: Choices, memory_bytes: usize) -> Self {
        let copies = Copies {
            left_bytes: memory_bytes,
            used_bytes: 0,
            linears: HashMap::new(),
            experts: HashMap::new(),
        };
        Self { choices: Mutex::new(choices), copies: Mutex::new(copies) }
    }

    /// The experts that are copies.
    pub(super) fn experts(&self) -> Vec<Arc<Experts<D::Experts>>> {
        let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        copies.experts.values().cloned().collect()
    }

    /// Bytes of the copies of weights there are.
    pub(super) fn copied_bytes(&self) -> usize {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner).used_bytes
    }

    /// Gives every step of a plan the settings that are fastest on this machine, from the cache or
    /// by measuring them on made-up tokens.
    ///
    /// # Errors
    /// As a forward, and if the device has no room for a copy it was to make.
    pub(super) fn tune(
        &self,
        plan: &mut Plan<D>,
        subject: Subject<'_, D>,
        progress: &dyn Progress,
    ) -> Result<Tuned> {
        // One plan at a time: two that measure disturb each other.
        let mut choices = self.choices.lock().unwrap_or_else(PoisonError::into_inner);
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let kinds = kinds(plan);
        let is_known = |key: &String, steps: &[usize]| {
            let can_copy = || weight_bytes(&plan.program.steps[steps[0]]) <= copies.left_bytes;
            choices.get(key).is_some_and(|choice| choice.copy.is_some() || !can_copy())
        };
        let (known, unknown): (Kinds, Kinds) = kinds
            .iter()
            .map(|(key, steps)| (key.clone(), steps.clone()))
            .partition(|(key, steps)| is_known(key, steps));
        if !unknown.is_empty() {
            let mut bench = Bench::new(plan, subject, &unknown, progress)?;
            let measured = bench.measure(copies.left_bytes)?;
            for (key, choice) in measured {
                tracing::debug!(key, ?choice, "measured");
                choices.insert(key, choice);
            }
            if let Err(error) = choices.save() {
                tracing::warn!(%error, "cannot keep what autotuning measured");
            }
        }
        for (key, steps) in &kinds {
            let Some(choice) = choices.get(key) else { continue };
            for &step in steps {
                let step = &mut plan.program.steps[step];
                step.device = tuned(subject.device(), &choice.knobs);
                if choice.copy == Some(true) {
                    copies.replace(step)?;
                }
            }
        }
        Ok(Tuned { measured: unknown.len(), known: known.len() })
    }
}

/// A device with some knobs turned.
fn tuned<D: Device>(device: &D, settings: &BTreeMap<String, usize>) -> D {
    let mut device = device.clone();
    for (index, knob) in device.knobs().iter().enumerate() {
        if let Some(&value) = settings.get(knob.name) {
            device = device.with_knob(index, value);
        }
    }
    device
}

/// The products of a plan, by kind.
fn kinds<D: Device>(plan: &Plan<D>) -> Kinds {
    let mut kinds = Kinds::new();
    for (index, step) in plan.program.steps.iter().enumerate() {
        if let Some(key) = key(plan, step) {
            kinds.entry(key).or_default().push(index);
        }
    }
    kinds
}

/// What a product's speed depends on: `linear bf16 [2048+2048, 2048], 1 rows`.
fn key<D: Device>(plan: &Plan<D>, step: &Step<D>) -> Option<String> {
    let rows = step.rows;
    match &step.op {
        Op::Linear(linears) | Op::Router { linears, .. } => {
            let weight = &linears.first()?.weight;
            let outputs: Vec<String> =
                linears.iter().map(|linear| linear.weight.rows().to_string()).collect();
            let (outputs, inputs) = (outputs.join("+"), weight.cols());
            Some(format!("linear {} [{outputs}, {inputs}], {rows} rows", weight.format()))
        }
        Op::Experts { experts, run_by } => {
            let spec = experts.spec();
            let backend = match run_by {
                RunBy::Chosen => plan.backend.name.as_str(),
                RunBy::Fixed(backend) => backend.name(),
            };
            Some(format!(
                "experts {backend} {} H {} I {} E {} K {} {}, {rows} rows",
                spec.format,
                spec.hidden,
                spec.intermediate,
                spec.experts,
                step.experts_per_token(),
                spec.activation.name(),
            ))
        }
        _ => None,
    }
}

impl<D: Device> Copies<D> {
    /// Puts copies in the place of a step's weights, as far as the budget goes.
    fn replace(&mut self, step: &mut Step<D>) -> Result<()> {
        let device = step.device.clone();
        match &mut step.op {
            Op::Linear(linears) | Op::Router { linears, .. } => {
                for linear in linears {
                    if let Some(copy) = self.linear(&device, linear)? {
                        *linear = copy;
                    }
                }
            }
            Op::Experts { experts, .. } => {
                if let Some(copy) = self.experts(&device, experts)? {
                    *experts = copy;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn linear(
        &mut self,
        device: &D,
        linear: &Arc<DeviceLinear<D>>,
    ) -> Result<Option<Arc<DeviceLinear<D>>>> {
        let key = Arc::as_ptr(linear) as usize;
        if let Some(copy) = self.linears.get(&key) {
            return Ok(Some(Arc::clone(copy)));
        }
        if linear.weight.size_bytes() > self.left_bytes {
            return Ok(None);
        }
        let (copy, bytes) = copied_linear(device, linear)?;
        self.take(bytes);
        self.linears.insert(key, Arc::clone(&copy));
        Ok(Some(copy))
    }

    fn experts(
        &mut self,
        device: &D,
        experts: &Arc<Experts<D::Experts>>,
    ) -> Result<Option<Arc<Experts<D::Experts>>>> {
        let key = Arc::as_ptr(experts) as usize;
        if let Some(copy) = self.experts.get(&key) {
            return Ok(Some(Arc::clone(copy)));
        }
        let spec = experts.spec();
        if spec.experts * spec.bytes_per_expert() > self.left_bytes {
            return Ok(None);
        }
        let (copy, bytes) = copied_experts(device, experts)?;
        self.take(bytes);
        self.experts.insert(key, Arc::clone(&copy));
        Ok(Some(copy))
    }

    fn take(&mut self, bytes: usize) {
        self.left_bytes -= bytes;
        self.used_bytes += bytes;
    }
}

/// A layer with a copy of its weight, if the device makes one, and the bytes of the copy.
fn copied_linear<D: Device>(
    device: &D,
    linear: &Arc<DeviceLinear<D>>,
) -> Result<(Arc<DeviceLinear<D>>, usize)> {
    Ok(match device.resident_copy(&linear.weight)? {
        Some(weight) => {
            let bytes = weight.size_bytes();
            (Arc::new(Linear { weight, bias: linear.bias.clone() }), bytes)
        }
        None => (Arc::clone(linear), 0),
    })
}

/// Experts with copies of those weights that the device makes copies of, and the bytes of these.
fn copied_experts<D: Device>(
    device: &D,
    experts: &Experts<D::Experts>,
) -> Result<(Arc<Experts<D::Experts>>, usize)> {
    let mut bytes = 0;
    let copy = |weight: &D::Matrix| {
        let copy = device.resident_copy(weight)?;
        bytes += copy.as_ref().map_or(0, Weight::size_bytes);
        Ok(copy.unwrap_or_else(|| weight.clone()))
    };
    let copies = Arc::new(experts.with_matrices(copy)?);
    Ok((copies, bytes))
}

/// A step with copies of its weights, whatever they take.
fn with_copies<D: Device>(step: &mut Step<D>) -> Result<Op<D>> {
    let device = step.device.clone();
    let copied = |linears: &[Arc<DeviceLinear<D>>]| {
        let copies = linears.iter().map(|linear| Ok(copied_linear(&device, linear)?.0));
        copies.collect::<Result<Vec<_>>>()
    };
    let copy = match &step.op {
        Op::Linear(linears) => Op::Linear(copied(linears)?),
        Op::Router { linears, router, shared_slices } => Op::Router {
            linears: copied(linears)?,
            router: Router::clone(router),
            shared_slices: *shared_slices,
        },
        Op::Experts { experts, run_by } => {
            Op::Experts { experts: copied_experts(&device, experts)?.0, run_by: run_by.clone() }
        }
        _ => unreachable!("only products have weights that are copied"),
    };
    Ok(std::mem::replace(&mut step.op, copy))
}

/// What a step has beside what is measured: the copies, or the weights where they lie.
struct Other<D: Device> {
    op: Op<D>,
    is_copy: bool,
}

/// Bytes of all weights of a step.
fn weight_bytes<D: Device>(step: &Step<D>) -> usize {
    match &step.op {
        Op::Linear(linears) | Op::Router { linears, .. } => {
            linears.iter().map(|linear| linear.weight.size_bytes()).sum()
        }
        Op::Experts { experts, .. } => experts.spec().experts * experts.spec().bytes_per_expert(),
        _ => 0,
    }
}

/// A plan under measurement: forwards over made-up inputs, whose products are timed where they
/// stand, so that what they read is real and their weights are not in a cache.
struct Bench<'a, D: Device> {
    plan: &'a mut Plan<D>,
    device: &'a D,
    kinds: &'a Kinds,
    /// The kind of each step that is measured.
    kind_of: HashMap<usize, String>,
    chosen: BTreeMap<String, Choice>,
    probe: Probe<'a, D>,
    progress: &'a dyn Progress,
}

/// Made-up inputs of the largest shape of a class.
enum Probe<'a, D: Device> {
    Tokens {
        decoder: &'a Decoder<D>,
        backend: &'a dyn ExpertsBackend<D::Experts>,
        ids: Vec<u32>,
        batch: Batch,
        positions: Vec<Position>,
        memory: Box<Memory<D>>,
    },
    Picture {
        tower: &'a VisionTower<D>,
        pixels: PixelValues,
    },
}

impl<'a, D: Device> Probe<'a, D> {
    fn new(subject: Subject<'a, D>, class: ShapeClass) -> Result<Self> {
        match subject {
            Subject::Decoder(decoder, backend) => {
                let spans = spans(class, decoder.spec().max_position_embeddings);
                let tokens: usize = spans.iter().map(|span| span.tokens).sum();
                let vocab = decoder.spec().vocab_size.max(1);
                // Knuth's multiplier spreads the ids, and with them the experts that are chosen.
                let id = |token: usize| (token.wrapping_mul(2_654_435_761) % vocab) as u32;
                let positions = spans.iter().flat_map(|span| (0..span.tokens).map(|t| [t; 3]));
                Ok(Self::Tokens {
                    decoder,
                    backend: &**backend,
                    ids: (0..tokens).map(id).collect(),
                    positions: positions.collect(),
                    memory: Box::new(decoder.memory(spans.len())?),
                    batch: Batch::new(spans),
                })
            }
            Subject::Tower(tower) => {
                let merge = tower.spec().spatial_merge_size;
                let blocks = (class.tokens / (merge * merge)).max(1);
                let high = blocks.isqrt().max(1);
                let grid = [1, high * merge, blocks / high * merge];
                let len = tower.spec().patch_len();
                let patches: usize = grid.iter().product();
                let value = |index: usize| (index % 251) as f32 / 125.0 - 1.0;
                let values = (0..patches * len).map(value).collect();
                Ok(Self::Picture { tower, pixels: PixelValues::new(grid, len, values)? })
            }
        }
    }

    /// Runs the plan, with `work` in the place of each step.
    fn run(
        &mut self,
        plan: &Plan<D>,
        work: impl FnMut(usize, &Step<D>, &mut Workspace<D>, &mut Run<'_, D>) -> Result<()> + Send,
    ) -> Result<()> {
        match self {
            Self::Tokens { decoder, backend, ids, batch, positions, memory } => {
                let logits = plan.class.logits;
                let input = Input { ids, batch, positions, visuals: &[], logits };
                let call = Forward { input, memory, experts: *backend, observer: None };
                decoder.measure(&plan.program, call, work)
            }
            Self::Picture { tower, pixels } => tower.measure(&plan.program, pixels, work),
        }
    }
}

/// Median seconds of each kind.
type Times = BTreeMap<String, f64>;

impl<'a, D: Device> Bench<'a, D> {
    fn new(
        plan: &'a mut Plan<D>,
        subject: Subject<'a, D>,
        kinds: &'a Kinds,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let mut kind_of = HashMap::new();
        for (key, steps) in kinds {
            // Of the layers the first, and what stands after the last.
            let measured = steps
                .iter()
                .filter(|&&step| plan.steps()[step].layer.is_none_or(|layer| layer < LAYERS));
            kind_of.extend(measured.map(|&step| (step, key.clone())));
            if !steps.iter().any(|step| kind_of.contains_key(step)) {
                kind_of.extend(steps.iter().take(1).map(|&step| (step, key.clone())));
            }
        }
        Ok(Self {
            probe: Probe::new(subject, plan.class)?,
            device: subject.device(),
            plan,
            kinds,
            kind_of,
            chosen: BTreeMap::new(),
            progress,
        })
    }

    /// The fastest settings of each kind.
    ///
    /// - `budget`: bytes that copies of weights may take
    fn measure(&mut self, budget: usize) -> Result<BTreeMap<String, Choice>> {
        let knobs = self.device.knobs();
        let applying: Vec<(usize, &Knob)> = knobs
            .iter()
            .enumerate()
            .filter(|(_, knob)| self.kind_of.keys().any(|&step| self.applies(knob, step)))
            .collect();
        let mut passes: usize = applying.iter().map(|(_, knob)| knob.values.len()).sum();
        passes *= self.rounds();
        passes += if budget > 0 { 2 * SAMPLES } else { 0 };
        self.progress.start(WORK, Amount::Steps(passes as u64));
        self.chosen = self.kinds.keys().map(|key| (key.clone(), Choice::default())).collect();
        // The first forward finds the weights on disk.
        self.pass(&mut |_, _| {})?;
        for (index, knob) in applying {
            let ways: Vec<Option<usize>> = knob.values.iter().map(|&value| Some(value)).collect();
            let times = self.compare(&ways, &mut |bench, step, way| {
                let chosen = &bench.chosen[&bench.kind_of[&step]].knobs;
                let device = tuned(bench.device, chosen);
                bench.plan.program.steps[step].device = match way {
                    Some(value) if bench.applies(knob, step) => device.with_knob(index, value),
                    _ => device,
                };
            })?;
            let default = knob.values.iter().position(|&value| value == knob.default);
            let applying: BTreeSet<&String> = self
                .kind_of
                .iter()
                .filter(|(step, _)| self.applies(knob, **step))
                .map(|(_, key)| key)
                .collect();
            for (key, choice) in &mut self.chosen {
                let Some(best) = best(&times, default.unwrap_or(0), key) else { continue };
                if applying.contains(key) {
                    let milliseconds: Vec<f64> =
                        times.iter().map(|times| 1e3 * times.get(key).unwrap_or(&0.0)).collect();
                    tracing::debug!(key, knob.name, ?knob.values, ?milliseconds, "timed");
                    if knob.values[best] != knob.default {
                        choice.knobs.insert(knob.name.to_owned(), knob.values[best]);
                    }
                }
            }
        }
        if budget > 0 {
            self.measure_copies(budget)?;
        }
        self.progress.finish(WORK);
        Ok(std::mem::take(&mut self.chosen))
    }

    /// Whether copies of the weights are faster, each kind with the settings chosen so far; of each
    /// kind one step is copied, if the budget would allow it.
    fn measure_copies(&mut self, budget: usize) -> Result<()> {
        let mut others = HashMap::new();
        for steps in self.kinds.values() {
            let mut measured = steps.iter().filter(|step| self.kind_of.contains_key(step));
            let first = measured.next().copied();
            for step in steps {
                if Some(*step) != first {
                    self.kind_of.remove(step);
                }
            }
            let Some(first) = first else { continue };
            let chosen = &self.chosen[&self.kind_of[&first]].knobs;
            let step = &mut self.plan.program.steps[first];
            step.device = tuned(self.device, chosen);
            if weight_bytes(step) > budget {
                self.kind_of.remove(&first);
                continue;
            }
            let original = with_copies(step)?;
            others.insert(first, Other { op: original, is_copy: false });
        }
        let times = self.compare(&[None, Some(1)], &mut |bench, step, way| {
            if let Some(other) = others.get_mut(&step)
                && other.is_copy == way.is_some()
            {
                std::mem::swap(&mut bench.plan.program.steps[step].op, &mut other.op);
                other.is_copy = !other.is_copy;
            }
        })?;
        for (step, other) in others {
            let key = &self.kind_of[&step];
            let milliseconds: Vec<f64> =
                times.iter().map(|times| 1e3 * times.get(key).unwrap_or(&0.0)).collect();
            tracing::debug!(key, knob.name = "copy", ?milliseconds, "timed");
            self.chosen.entry(key.clone()).or_default().copy =
                Some(best(&times, 0, key) == Some(1));
            if !other.is_copy {
                self.plan.program.steps[step].op = other.op;
            }
        }
        Ok(())
    }

    /// The median times of each kind in each way; the ways take turns.
    fn compare(
        &mut self,
        ways: &[Option<usize>],
        set: &mut dyn FnMut(&mut Self, usize, Option<usize>),
    ) -> Result<Vec<Times>> {
        let steps: Vec<usize> = self.kind_of.keys().copied().collect();
        let mut samples: Vec<BTreeMap<String, Vec<Duration>>> = vec![BTreeMap::new(); ways.len()];
        for _ in 0..self.rounds() {
            for (&way, samples) in ways.iter().zip(&mut samples) {
                for &step in &steps {
                    set(self, step, way);
                }
                self.pass(&mut |key, time| {
                    samples.entry(key.to_owned()).or_default().push(time);
                })?;
                self.progress.advance(WORK, 1);
            }
        }
        let median = |mut times: Vec<Duration>| {
            times.sort_unstable();
            times[times.len() / 2].as_secs_f64()
        };
        let medians = |samples: BTreeMap<String, Vec<Duration>>| {
            samples.into_iter().map(|(key, times)| (key, median(times))).collect()
        };
        Ok(samples.into_iter().map(medians).collect())
    }

    /// One forward; `told` is given the kind and the time of each product that is measured.
    fn pass(&mut self, told: &mut (dyn FnMut(&str, Duration) + Send)) -> Result<()> {
        let Self { plan, kind_of, probe, .. } = self;
        let last = kind_of.keys().max().copied().unwrap_or(0);
        // A kind that the first layers do not have is measured in a later one.
        let layers: BTreeSet<usize> =
            kind_of.keys().filter_map(|&step| plan.steps()[step].layer).collect();
        probe.run(plan, |index, step, workspace, run| {
            if index > last {
                return Ok(());
            }
            if step.layer.is_some_and(|layer| layer >= LAYERS && !layers.contains(&layer)) {
                return step.pass_over(workspace, run);
            }
            let Some(key) = kind_of.get(&index) else { return step.run(workspace, run) };
            step.device.synchronize()?;
            let start = Instant::now();
            step.run(workspace, run)?;
            step.device.synchronize()?;
            told(key, start.elapsed());
            Ok(())
        })
    }

    /// Rounds that give every kind enough samples.
    fn rounds(&self) -> usize {
        let fewest = self
            .kinds
            .values()
            .map(|steps| steps.iter().filter(|step| self.kind_of.contains_key(step)).count())
            .min();
        SAMPLES.div_ceil(fewest.unwrap_or(1).max(1))
    }

    fn applies(&self, knob: &Knob, step: usize) -> bool {
        let step = &self.plan.steps()[step];
        match knob.rows {
            Rows::Few => step.rows_at_once(self.plan.backend.groups_tokens) <= FEW,
            Rows::Many => step.rows >= MANY,
            Rows::Any => true,
        }
    }
}

/// The fastest way of a kind, the default unless another is clearly faster.
fn best(times: &[Times], default: usize, key: &str) -> Option<usize> {
    let of = |way: usize| times[way].get(key).copied();
    let fastest = (0..times.len()).min_by(|&a, &b| {
        let time = |way| of(way).unwrap_or(f64::INFINITY);
        time(a).total_cmp(&time(b))
    })?;
    Some(if of(fastest)? < of(default)? * WORTH_IT { fastest } else { default })
}

/// Made-up prompts of the largest shape of a class.
fn spans(class: ShapeClass, context: usize) -> Vec<Span> {
    let span = |sequence, tokens| Span { sequence, start: 0, tokens };
    if class.kind == Kind::Decode {
        return (0..class.tokens).map(|sequence| span(sequence, 1)).collect();
    }
    let sequences = match class.logits {
        LogitsRows::All => 1,
        LogitsRows::LastOfSpan => class.logits_rows,
    };
    let tokens = (class.tokens / sequences).min(context).max(1);
    (0..sequences).map(|sequence| span(sequence, tokens)).collect()
}
