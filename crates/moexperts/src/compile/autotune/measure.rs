//! Times the products of a plan with each setting of the knobs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use moexperts_core::{Device, Knob, Rows};

use super::{
    copies::with_copies,
    kinds::{Kinds, weight_bytes, with_knobs},
    probe::Probe,
};
use crate::{
    compile::{choices::MeasuredChoice, plan::Plan, subject::Subject},
    error::Result,
    graph::Op,
    progress::{Amount, Progress},
};

/// How much faster a setting has to be than the default to be chosen: less is noise.
const WORTH_IT: f64 = 0.97;

/// Layers that are measured. What is alike in all layers need not be measured in all.
const LAYERS: usize = 4;

/// Times that every setting of every operation is measured at least.
const SAMPLES: usize = 5;

/// Rows up to which all rows of an operation can go through the dot products, one row at a time.
const FEW: usize = 16;

/// Rows from which on some rows of an operation can fill a panel of the kernels for many rows. From
/// `MANY` to `FEW` an operation may go either way, so both sets of settings are measured.
const MANY: usize = 4;

/// What [`Progress`] calls the measurements.
const WORK: &str = "autotuning";

/// What a step has beside what is measured: the copies, or the weights where they lie.
struct OtherWeights<D: Device> {
    op: Op<D>,
    is_copy: bool,
}

/// A plan under measurement: forwards over made-up inputs, whose products are timed where they
/// stand, so that what they read is real and their weights are not in a cache.
pub(super) struct Bench<'a, D: Device> {
    plan: &'a mut Plan<D>,
    device: &'a D,
    kinds: &'a Kinds,
    /// The kind of each step that is measured.
    kind_of: HashMap<usize, String>,
    chosen: BTreeMap<String, MeasuredChoice>,
    probe: Probe<'a, D>,
    progress: &'a dyn Progress,
}

/// Median seconds of each kind.
type Times = BTreeMap<String, f64>;

impl<'a, D: Device> Bench<'a, D> {
    pub(super) fn new(
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
    /// - `budget_bytes`: what copies of weights may take
    pub(super) fn measure(
        &mut self,
        budget_bytes: usize,
    ) -> Result<BTreeMap<String, MeasuredChoice>> {
        let knobs = self.device.knobs();
        let applying: Vec<(usize, &Knob)> = knobs
            .iter()
            .enumerate()
            .filter(|(_, knob)| self.kind_of.keys().any(|&step| self.applies(knob, step)))
            .collect();
        let mut passes: usize = applying.iter().map(|(_, knob)| knob.values.len()).sum();
        passes *= self.rounds();
        passes += if budget_bytes > 0 { 2 * SAMPLES } else { 0 };
        self.progress.start(WORK, Amount::Steps(passes as u64));
        self.chosen =
            self.kinds.keys().map(|key| (key.clone(), MeasuredChoice::default())).collect();
        // The first forward finds the weights on disk.
        self.pass(&mut |_, _| {})?;
        for (index, knob) in applying {
            let ways: Vec<Option<usize>> = knob.values.iter().map(|&value| Some(value)).collect();
            let times = self.compare(&ways, &mut |bench, step, way| {
                let chosen = &bench.chosen[&bench.kind_of[&step]].knobs;
                let device = with_knobs(bench.device, chosen);
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
        if budget_bytes > 0 {
            self.measure_copies(budget_bytes)?;
        }
        self.progress.finish(WORK);
        Ok(std::mem::take(&mut self.chosen))
    }

    /// Whether copies of the weights are faster, each kind with the settings chosen so far; of each
    /// kind one step is copied, if the budget allows it.
    fn measure_copies(&mut self, budget_bytes: usize) -> Result<()> {
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
            step.device = with_knobs(self.device, chosen);
            if weight_bytes(step) > budget_bytes {
                self.kind_of.remove(&first);
                continue;
            }
            let original = with_copies(step)?;
            others.insert(first, OtherWeights { op: original, is_copy: false });
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
