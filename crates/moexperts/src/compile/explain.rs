//! A readable report of compiling.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use moexperts_core::Device;

use super::{
    autotune::Tuned,
    options::{CompileMode, CompileOptions},
    plan::Plan,
};
use crate::{
    graph::{Op, RunBy, Step},
    model::DecoderSpec,
    units::{Bytes, Flops, counted},
};

/// What [`compile`](crate::LanguageModel::compile) did.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CompileReport {
    /// The mode.
    pub mode: CompileMode,
    /// Whether one unbroken piece was demanded.
    pub fullgraph: bool,
    /// Plans made.
    pub plans: usize,
    /// The most pieces of a plan.
    pub pieces: usize,
    /// Kernels of the products.
    pub kernels: Vec<String>,
    /// Kinds of products whose settings were measured.
    pub measured: usize,
    /// Kinds of products whose settings were known from an earlier run.
    pub known: usize,
    /// Bytes of the largest workspace.
    pub workspace_bytes: usize,
    /// Bytes of copies of weights.
    pub copied_bytes: usize,
    /// Whether decode steps are captured as a graph (at their second run, to be launched as one from
    /// the third on); `None` if the mode captures none.
    pub captured: Option<bool>,
    /// How long it took.
    pub time: Duration,
    device: &'static str,
    can_capture: bool,
}

impl CompileReport {
    pub(super) fn new<D: Device>(
        options: &CompileOptions,
        plans: &[Arc<Plan<D>>],
        tuned: Tuned,
        copied_bytes: usize,
        time: Duration,
    ) -> Self {
        let kernels: BTreeSet<String> = plans
            .iter()
            .flat_map(|plan| plan.steps().iter().filter_map(|step| kernel(plan, step)))
            .collect();
        let captured = plans.iter().any(|plan| plan.captured);
        Self {
            mode: options.mode,
            fullgraph: options.fullgraph,
            plans: plans.len(),
            pieces: plans.iter().map(|plan| plan.pieces()).max().unwrap_or(0),
            kernels: kernels.into_iter().collect(),
            measured: tuned.measured,
            known: tuned.known,
            workspace_bytes: plans.iter().map(|plan| plan.workspace_bytes()).max().unwrap_or(0),
            copied_bytes,
            captured: options.mode.captures_graph().then_some(captured),
            time,
            device: D::NAME,
            can_capture: D::CAPTURES_GRAPHS,
        }
    }
}

impl fmt::Display for CompileReport {
    /// One line: `default: 1 piece, 2 plans, avx2 dot, workspace 1.2 MB, 0.012 s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.mode)?;
        if self.fullgraph {
            f.write_str(", fullgraph")?;
        }
        write!(f, ": {}, {}", counted(self.pieces, "piece"), counted(self.plans, "plan"))?;
        write!(f, ", {}", self.kernels.join(", "))?;
        if self.mode.autotunes() {
            let (measured, known) = (counted(self.measured, "product"), self.known);
            write!(f, ", {measured} measured, {known} known")?;
        }
        write!(f, ", workspace {}", Bytes(self.workspace_bytes as f64))?;
        if self.copied_bytes > 0 {
            write!(f, ", copies {}", Bytes(self.copied_bytes as f64))?;
        }
        write!(f, ", {:.3} s", self.time.as_secs_f64())?;
        match self.captured {
            Some(true) => f.write_str(", decoding as a graph"),
            Some(false) if self.can_capture => f.write_str("; no graph of a plan in pieces"),
            Some(false) => write!(f, "; no graph to capture on {}", self.device),
            None => Ok(()),
        }
    }
}

/// What the plans of a compiled model do.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Explanation {
    /// The mode.
    pub mode: CompileMode,
    /// Whether one unbroken piece was demanded.
    pub fullgraph: bool,
    /// The plans, decode first.
    pub plans: Vec<PlanExplanation>,
    layers: usize,
}

/// What one plan does.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PlanExplanation {
    /// The shapes it is for.
    pub class: String,
    /// The backend of the routed experts.
    pub backend: String,
    /// Runs of steps between breaks.
    pub pieces: usize,
    /// Where the host has to wait.
    pub breaks: Vec<Break>,
    /// Every step, in order.
    pub steps: Vec<StepExplanation>,
    /// Bytes of its workspace.
    pub workspace_bytes: usize,
    /// Whether its steps are captured as a graph.
    pub captured: bool,
}

/// Why a plan is not one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Break {
    /// The layer.
    pub layer: Option<usize>,
    /// The operation.
    pub operation: &'static str,
    /// What it does.
    pub reason: &'static str,
}

/// One operation of a plan.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StepExplanation {
    /// The layer, `None` before the first and after the last.
    pub layer: Option<usize>,
    /// The operation.
    pub operation: &'static str,
    /// The modules and steps that became one.
    pub parts: Vec<&'static str>,
    /// The kernel of a product.
    pub kernel: Option<String>,
    /// Bytes of weights it reads; for experts, of those that are hit if all are equally likely.
    pub bytes: f64,
    /// Floating point operations of its products.
    pub flops: f64,
}

impl Explanation {
    pub(super) fn new<D: Device>(
        options: &CompileOptions,
        spec: &DecoderSpec,
        plans: &[&Arc<Plan<D>>],
    ) -> Self {
        let plans = plans.iter().map(|plan| PlanExplanation::new(plan)).collect();
        Self { mode: options.mode, fullgraph: options.fullgraph, plans, layers: spec.layers.len() }
    }
}

impl PlanExplanation {
    fn new<D: Device>(plan: &Plan<D>) -> Self {
        let step = |step: &Step<D>| StepExplanation {
            layer: step.layer,
            operation: step.op.name(),
            parts: step.parts.clone(),
            kernel: kernel(plan, step),
            bytes: step.cost.bytes,
            flops: step.cost.flops,
        };
        let broken = |(step, reason): (&Step<D>, &'static str)| Break {
            layer: step.layer,
            operation: step.op.name(),
            reason,
        };
        Self {
            class: plan.class.to_string(),
            backend: plan.backend.name.clone(),
            pieces: plan.pieces(),
            breaks: plan.breaks().map(broken).collect(),
            steps: plan.steps().iter().map(step).collect(),
            workspace_bytes: plan.workspace_bytes(),
            captured: plan.captured,
        }
    }
}

/// The kernel of a product: of experts, that of all their tokens, or the backend if it is not one of
/// the device's.
fn kernel<D: Device>(plan: &Plan<D>, step: &Step<D>) -> Option<String> {
    match &step.op {
        Op::Linear(linears) | Op::Router { linears, .. } => {
            linears.first().map(|linear| step.device.kernel_name(&linear.weight, step.rows))
        }
        Op::Experts { experts, run_by } => {
            let is_built_in = matches!(run_by, RunBy::Fixed(_)) || plan.backend.is_built_in;
            if !is_built_in || experts.spec().experts == 0 {
                return Some(plan.backend.name.clone());
            }
            let weight = &experts.expert(0).up_proj.weight;
            let rows = step.rows_at_once(plan.backend.groups_tokens);
            Some(step.device.kernel_name(weight, rows))
        }
        _ => None,
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fullgraph = if self.fullgraph { ", fullgraph" } else { "" };
        write!(f, "compiled  {}{fullgraph}, {} layers", self.mode, self.layers)?;
        for plan in &self.plans {
            write!(f, "\n\n{plan}")?;
        }
        Ok(())
    }
}

impl fmt::Display for PlanExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pieces = if self.pieces == 1 { "piece" } else { "pieces" };
        let total: f64 = self.steps.iter().map(|step| step.bytes).sum();
        let flops: f64 = self.steps.iter().map(|step| step.flops).sum();
        writeln!(
            f,
            "{}, {}: {} {pieces}{}, {} steps, workspace {}, {} of weights, {}",
            self.class,
            self.backend,
            self.pieces,
            if self.captured { " as a graph" } else { "" },
            self.steps.len(),
            Bytes(self.workspace_bytes as f64),
            Bytes(total),
            Flops(flops),
        )?;
        for (Break { operation, reason, .. }, layers) in joined(&self.breaks) {
            let (layers, backend) = (span(&layers), &self.backend);
            writeln!(f, "  break at {operation} of layers {layers}: {backend} {reason}")?;
        }
        let titles = ["layers", "operation", "kernel", "weights", "products", "of"];
        write!(f, "  {}", Columns(titles.map(str::to_owned)))?;
        for (layers, steps) in self.layers() {
            for step in steps {
                let columns = Columns([
                    layers.clone(),
                    step.operation.to_owned(),
                    step.kernel.clone().unwrap_or_default(),
                    if step.bytes > 0.0 { Bytes(step.bytes).to_string() } else { String::new() },
                    if step.flops > 0.0 { Flops(step.flops).to_string() } else { String::new() },
                    step.parts.join(" + "),
                ]);
                write!(f, "\n  {columns}")?;
            }
        }
        Ok(())
    }
}

/// A line of the table.
struct Columns([String; 6]);

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [layers, operation, kernel, weights, products, parts] = &self.0;
        write!(f, "{layers:<8} {operation:<13} {kernel:<16} {weights:>9} {products:>12}  {parts}")
    }
}

/// Breaks of one kind, each with its layers.
fn joined(breaks: &[Break]) -> Vec<(&Break, Vec<usize>)> {
    let mut kinds: Vec<(&Break, Vec<usize>)> = Vec::new();
    for item in breaks {
        let same = |other: &Break| (other.operation, other.reason) == (item.operation, item.reason);
        match kinds.iter_mut().find(|(other, _)| same(other)) {
            Some((_, layers)) => layers.extend(item.layer),
            None => kinds.push((item, item.layer.into_iter().collect())),
        }
    }
    kinds
}

/// Ascending layers: `0, 2-23`.
fn span(layers: &[usize]) -> String {
    let runs = layers.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    runs.collect::<Vec<_>>().join(", ")
}

impl PlanExplanation {
    /// The steps, those of neighbouring layers that do the same once.
    fn layers(&self) -> Vec<(String, &[StepExplanation])> {
        let same = |a: &[StepExplanation], b: &[StepExplanation]| {
            a.len() == b.len()
                && a.iter().zip(b).all(|(a, b)| {
                    (a.operation, &a.parts, &a.kernel, a.bytes, a.flops)
                        == (b.operation, &b.parts, &b.kernel, b.bytes, b.flops)
                })
        };
        let mut groups: Vec<(Vec<usize>, &[StepExplanation])> = Vec::new();
        for steps in self.steps.chunk_by(|a, b| a.layer == b.layer) {
            match (groups.last_mut(), steps[0].layer) {
                (Some((layers, first)), Some(layer))
                    if !layers.is_empty() && same(first, steps) =>
                {
                    layers.push(layer);
                }
                (_, layer) => groups.push((layer.into_iter().collect(), steps)),
            }
        }
        groups.into_iter().map(|(range, steps)| (span(&range), steps)).collect()
    }
}
