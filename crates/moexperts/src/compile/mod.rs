//! Models compiled: a forward traced into a plan, its neighbours fused, its buffers in one
//! workspace, its kernels chosen once.
//!
//! A decoder's forward is written in operations that run or are recorded. `trace` records a `graph`,
//! `fuse` makes one operation of neighbours, `plan` gives every value a place in a workspace, and
//! `autotune` chooses the settings of the kernels, which `choices` keeps on disk. A plan is made for
//! each `class` of shapes at its first forward, or when the model is compiled.

mod autotune;
mod choices;
mod class;
mod explain;
mod fuse;
mod graph;
mod options;
mod places;
mod plan;
mod step;
mod trace;
mod workspace;

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

use moexperts_core::{Device, Experts, ExpertsBackend, ExpertsInterface};

use self::{
    autotune::{Autotuner, Tuned},
    choices::Choices,
    fuse::JoinedExperts,
};
pub(crate) use self::{
    class::ShapeClass,
    plan::Plan,
    workspace::{LastPlan, Workspace},
};
pub use self::{
    explain::{Break, CompileReport, Explanation, PlanExplanation, StepExplanation},
    options::{CompileMode, CompileOptions},
};
use crate::{
    error::{Error, Result},
    experts_implementation::DEFAULT,
    model::{Decoder, Forward},
};

/// What a compiled model keeps: how it was compiled, and a plan for each class of shapes and
/// backend that came by.
#[derive(Debug)]
pub(crate) struct Compiled<D: Device> {
    options: CompileOptions,
    /// The number of the decoder they are of.
    decoder: u64,
    dense: Arc<dyn ExpertsBackend<D>>,
    joined: JoinedExperts<D>,
    autotuner: Option<Autotuner<D>>,
    plans: RwLock<Plans<D>>,
}

type Plans<D> = HashMap<(ShapeClass, BackendKey), Arc<Plan<D>>>;

/// A backend: its name, and its place in memory if it is a registered one, for another may be
/// registered by its name later.
type BackendKey = (String, usize);

fn key<D: Device>(backend: &Arc<dyn ExpertsBackend<D>>) -> BackendKey {
    let name = backend.name().to_owned();
    let is_built_in = D::built_in_experts().iter().any(|built_in| built_in.name() == name);
    let place = if is_built_in { 0 } else { Arc::as_ptr(backend).cast::<()>() as usize };
    (name, place)
}

impl<D: Device> Compiled<D> {
    pub(crate) fn new(options: CompileOptions, decoder: &Decoder<D>) -> Result<Self> {
        let device = decoder.device();
        let autotuner = options.mode.autotunes().then(|| {
            let folder = options.cache_dir.clone().or_else(choices::default_folder);
            let choices = Choices::open(folder.as_deref(), device.fingerprint(), device.knobs());
            Autotuner::new(choices, options.memory_bytes)
        });
        Ok(Self {
            dense: ExpertsInterface::get(DEFAULT)?,
            options,
            decoder: decoder.number(),
            joined: JoinedExperts::default(),
            autotuner,
            plans: RwLock::default(),
        })
    }

    pub(crate) fn options(&self) -> &CompileOptions {
        &self.options
    }

    /// Whether these plans are of this model.
    ///
    /// # Errors
    /// [`Error::Option`] if they are another's.
    pub(crate) fn check_model(&self, decoder: &Decoder<D>, origin: &str) -> Result<()> {
        if self.decoder == decoder.number() {
            return Ok(());
        }
        Err(Error::Option {
            option: "compiled",
            got: "made by another model".to_owned(),
            expected: format!("what compiling `{origin}` made, as it is loaded here"),
        })
    }

    /// Whether a backend can be compiled as this model is.
    ///
    /// # Errors
    /// [`Error::GraphBreak`] for one that reads the routing on the host, with `fullgraph`.
    pub(crate) fn check(&self, backend: &Arc<dyn ExpertsBackend<D>>) -> Result<()> {
        if self.options.fullgraph && backend.reads_routing_on_host() {
            return Err(Error::GraphBreak {
                backend: backend.name().to_owned(),
                operation: "experts".to_owned(),
                reason: "reads on the host which experts were hit",
            });
        }
        Ok(())
    }

    /// The plan of a class and a backend; made if there is none.
    ///
    /// # Errors
    /// As [`check`](Self::check), and as a forward where kernels are measured.
    pub(crate) fn plan(
        &self,
        decoder: &Decoder<D>,
        backend: &Arc<dyn ExpertsBackend<D>>,
        class: ShapeClass,
    ) -> Result<Arc<Plan<D>>> {
        self.plan_and_tuning(decoder, backend, class).map(|(plan, _)| plan)
    }

    fn plan_and_tuning(
        &self,
        decoder: &Decoder<D>,
        backend: &Arc<dyn ExpertsBackend<D>>,
        class: ShapeClass,
    ) -> Result<(Arc<Plan<D>>, Tuned)> {
        self.check(backend)?;
        let key = (class, key(backend));
        let plans = || self.plans.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = plans().get(&key) {
            return Ok((Arc::clone(plan), Tuned::default()));
        }
        if class.is_outside() {
            tracing::info!(%class, "no class has this shape: traced anew");
        }
        let kept = class.is_kept();
        let start = Instant::now();
        let mut graph = trace::trace(decoder, backend, class)?;
        fuse::fuse(&mut graph, decoder.device(), class.tokens, &self.dense, &self.joined);
        let mut plan = Plan::new(decoder.device(), graph, class, Arc::clone(backend));
        let tuned = match &self.autotuner {
            // What is not kept is not worth its measurements.
            Some(autotuner) if kept => {
                autotuner.tune(&mut plan, decoder, &*self.options.progress)?
            }
            _ => Tuned::default(),
        };
        // Of prompts, hardly two are alike.
        plan.captured = D::CAPTURES_GRAPHS
            && self.options.mode.captures_graph()
            && class.decode
            && plan.breaks().next().is_none();
        tracing::debug!(
            %class,
            backend = backend.name(),
            steps = plan.steps.len(),
            seconds = start.elapsed().as_secs_f64(),
            "planned"
        );
        if !kept {
            return Ok((Arc::new(plan), tuned));
        }
        let mut plans = self.plans.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been faster.
        Ok((Arc::clone(plans.entry(key).or_insert_with(|| Arc::new(plan))), tuned))
    }

    /// Makes the plans of the shapes the options name.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub(crate) fn prepare(
        &self,
        decoder: &Decoder<D>,
        [prefill, decode]: [&Arc<dyn ExpertsBackend<D>>; 2],
    ) -> Result<CompileReport> {
        let start = Instant::now();
        let mut plans = Vec::new();
        let mut tuned = Tuned::default();
        for &batch in &self.options.batch_sizes {
            let mut add = |backend, class| -> Result<()> {
                let (plan, new) = self.plan_and_tuning(decoder, backend, class)?;
                tuned.measured += new.measured;
                tuned.known += new.known;
                plans.push(plan);
                Ok(())
            };
            add(decode, ShapeClass::decode(batch))?;
            for &tokens in &self.options.prompt_tokens {
                add(prefill, ShapeClass::prefill(batch * tokens, batch))?;
            }
        }
        let copied = self.autotuner.as_ref().map_or(0, Autotuner::copied_bytes);
        Ok(CompileReport::new(&self.options, &plans, tuned, copied, start.elapsed()))
    }

    /// The experts layers that compiling made, for which backends may keep something.
    pub(crate) fn experts(&self) -> Vec<Arc<Experts<D>>> {
        let mut experts = self.joined.all();
        experts.extend(self.autotuner.iter().flat_map(Autotuner::experts));
        experts
    }

    /// What every plan does.
    pub(crate) fn explain(&self, decoder: &Decoder<D>) -> Explanation {
        let plans = self.plans.read().unwrap_or_else(PoisonError::into_inner);
        let mut plans: Vec<&Arc<Plan<D>>> = plans.values().collect();
        plans.sort_by_key(|plan| {
            (!plan.class.decode, plan.class.tokens, plan.class.to_string(), plan.backend.name())
        });
        Explanation::new(&self.options, decoder.spec(), &plans)
    }
}

impl<D: Device> Plan<D> {
    /// Writes the logits of a forward.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub(crate) fn forward(
        &self,
        decoder: &Decoder<D>,
        mut call: Forward<'_, D>,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let mut workspace = std::mem::take(call.session.scratch.slot::<Workspace<D>>());
        let mut recording = self.captured.then(|| workspace.take_recording(self.number));
        let result = decoder.device().enter_plan(recording.as_mut(), || {
            decoder.prepare(&mut call)?;
            self.run(&mut call, &mut workspace, logits)
        });
        if let Some(recording) = recording {
            workspace.keep_recording(self.number, recording);
        }
        *call.session.scratch.slot() = workspace;
        result
    }
}
