//! A compiled model: its plans, made as forwards need them.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, Weak},
    time::Instant,
};

use moexperts_core::{Device, Experts, ExpertsBackend, ExpertsInterface};

use super::{
    autotune::{Autotuner, Tuned},
    choices::{self, MeasuredChoices},
    class::{ForwardKind, ShapeClass},
    explain::{CompileReport, Explanation},
    fuse::{JoinedExperts, fuse},
    options::CompileOptions,
    plan::{BackendTraits, Plan},
    subject::Subject,
};
use crate::{
    error::{Error, Result},
    experts_implementation::DEFAULT,
    model::{Decoder, VisionTower},
};

/// What a compiled model keeps: how it was compiled, and a plan for each class of shapes and
/// backend that was used.
#[derive(Debug)]
pub(crate) struct Compiled<D: Device> {
    options: CompileOptions,
    /// The number of the decoder they belong to.
    decoder: u64,
    dense: Arc<dyn ExpertsBackend<D::Experts>>,
    joined: JoinedExperts<D>,
    autotuner: Option<Autotuner<D>>,
    plans: RwLock<Plans<D>>,
}

/// Plans by class, and by the address of the backend they were made for; 0 of a graph without
/// routed experts.
type Plans<D> = HashMap<(ShapeClass, usize), Kept<D>>;

/// A plan that is kept as long as its backend lives. The address of a backend is not used again as
/// long as there is a weak reference to it.
#[derive(Debug)]
struct Kept<D: Device> {
    plan: Arc<Plan<D>>,
    backend: Option<Weak<dyn ExpertsBackend<D::Experts>>>,
}

impl<D: Device> Kept<D> {
    fn is_alive(&self) -> bool {
        self.backend.as_ref().is_none_or(|backend| backend.strong_count() > 0)
    }
}

/// The backends of the routed experts, by what a forward does.
#[derive(Debug)]
pub(crate) struct PhaseBackends<'a, D: Device> {
    pub(crate) prefill: &'a Arc<dyn ExpertsBackend<D::Experts>>,
    pub(crate) decode: &'a Arc<dyn ExpertsBackend<D::Experts>>,
}

impl<D: Device> Compiled<D> {
    pub(crate) fn new(options: CompileOptions, decoder: &Decoder<D>) -> Result<Self> {
        let device = decoder.device();
        let autotuner = options.mode.autotunes().then(|| {
            let folder = options.cache_dir.clone().or_else(choices::default_folder);
            let choices =
                MeasuredChoices::open(folder.as_deref(), device.fingerprint(), device.knobs());
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

    /// Whether these plans belong to this model.
    ///
    /// # Errors
    /// [`Error::Option`] if they belong to another.
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
    pub(crate) fn check(&self, backend: &Arc<dyn ExpertsBackend<D::Experts>>) -> Result<()> {
        if self.options.fullgraph && backend.reads_routing_on_host() {
            return Err(Error::GraphBreak {
                backend: backend.name().to_owned(),
                operation: "experts".to_owned(),
                reason: "reads on the host which experts were hit",
            });
        }
        Ok(())
    }

    /// The plan of a decoder's forward; made if there is none.
    ///
    /// # Errors
    /// As [`check`](Self::check), and as a forward where kernels are measured.
    pub(crate) fn plan(
        &self,
        decoder: &Decoder<D>,
        backend: &Arc<dyn ExpertsBackend<D::Experts>>,
        class: ShapeClass,
    ) -> Result<Arc<Plan<D>>> {
        self.plan_and_tuning(Subject::Decoder(decoder, backend), class).map(|(plan, _)| plan)
    }

    /// The plan of a vision tower's forward over a number of patches; made if there is none.
    ///
    /// # Errors
    /// As a forward where kernels are measured.
    pub(crate) fn picture_plan(
        &self,
        tower: &VisionTower<D>,
        patches: usize,
    ) -> Result<Arc<Plan<D>>> {
        let class = ShapeClass::picture(patches);
        self.plan_and_tuning(Subject::Tower(tower), class).map(|(plan, _)| plan)
    }

    fn plan_and_tuning(
        &self,
        subject: Subject<'_, D>,
        class: ShapeClass,
    ) -> Result<(Arc<Plan<D>>, Tuned)> {
        let backend = subject.backend();
        backend.map_or(Ok(()), |backend| self.check(backend))?;
        let address = backend.map_or(0, |backend| Arc::as_ptr(backend).cast::<()>() as usize);
        let key = (class, address);
        let plans = || self.plans.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = plans().get(&key) {
            return Ok((Arc::clone(&kept.plan), Tuned::default()));
        }
        if class.is_outside() {
            tracing::info!(%class, "no class has this shape: planned anew");
        }
        let start = Instant::now();
        let (plan, tuned) = self.make(subject, class)?;
        tracing::debug!(
            %class,
            backend = plan.backend.name,
            steps = plan.steps().len(),
            seconds = start.elapsed().as_secs_f64(),
            "planned"
        );
        let plan = Arc::new(plan);
        if !class.is_kept() {
            return Ok((plan, tuned));
        }
        let mut plans = self.plans.write().unwrap_or_else(PoisonError::into_inner);
        plans.retain(|_, kept| kept.is_alive());
        // Another thread may have been faster.
        let kept = plans.entry(key).or_insert_with(|| {
            let backend = backend.map(Arc::downgrade);
            Kept { plan, backend }
        });
        Ok((Arc::clone(&kept.plan), tuned))
    }

    fn make(&self, subject: Subject<'_, D>, class: ShapeClass) -> Result<(Plan<D>, Tuned)> {
        let device = subject.device();
        let mut graph = match subject {
            Subject::Decoder(decoder, _) => decoder.graph().clone(),
            Subject::Tower(tower) => tower.graph().clone(),
        };
        let backend = subject.backend().map(|backend| &**backend);
        fuse(&mut graph, device, class, &self.dense, backend, &self.joined);
        let traits = backend.map_or_else(BackendTraits::none, BackendTraits::of);
        let mut plan = Plan::new(device, graph, class, traits);
        let tuned = match &self.autotuner {
            // What is not kept is not worth its measurements.
            Some(autotuner) if class.is_kept() => {
                autotuner.tune(&mut plan, subject, &*self.options.progress)?
            }
            _ => Tuned::default(),
        };
        // Prompts rarely have the same shape twice.
        plan.captured = D::CAPTURES_GRAPHS
            && self.options.mode.captures_graph()
            && class.kind == ForwardKind::Decode
            && plan.breaks().next().is_none();
        Ok((plan, tuned))
    }

    /// Drops the plans of backends that are gone.
    pub(crate) fn drop_gone(&self) {
        let mut plans = self.plans.write().unwrap_or_else(PoisonError::into_inner);
        plans.retain(|_, kept| kept.is_alive());
    }

    /// Makes the plans of the shapes that the options name.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub(crate) fn prepare(
        &self,
        decoder: &Decoder<D>,
        backends: PhaseBackends<'_, D>,
    ) -> Result<CompileReport> {
        let start = Instant::now();
        let mut plans = Vec::new();
        let mut tuned = Tuned::default();
        for &batch in &self.options.batch_sizes {
            let mut add = |backend, class| -> Result<()> {
                let subject = Subject::Decoder(decoder, backend);
                let (plan, new) = self.plan_and_tuning(subject, class)?;
                tuned.measured += new.measured;
                tuned.known += new.known;
                plans.push(plan);
                Ok(())
            };
            add(backends.decode, ShapeClass::decode(batch))?;
            for &tokens in &self.options.prompt_tokens {
                add(backends.prefill, ShapeClass::prefill(batch * tokens, batch))?;
            }
        }
        let copied = self.autotuner.as_ref().map_or(0, Autotuner::copied_bytes);
        Ok(CompileReport::new(&self.options, &plans, tuned, copied, start.elapsed()))
    }

    /// The experts layers that compiling made, for which backends may keep something.
    pub(crate) fn experts(&self) -> Vec<Arc<Experts<D::Experts>>> {
        let mut experts = self.joined.all();
        experts.extend(self.autotuner.iter().flat_map(Autotuner::experts));
        experts
    }

    /// What every plan does.
    pub(crate) fn explain(&self, decoder: &Decoder<D>) -> Explanation {
        let plans = self.plans.read().unwrap_or_else(PoisonError::into_inner);
        let mut plans: Vec<&Arc<Plan<D>>> = plans.values().map(|kept| &kept.plan).collect();
        plans.sort_by_key(|plan| {
            let class = plan.class;
            (class.kind, class.tokens, class.to_string(), plan.backend.name.clone())
        });
        Explanation::new(&self.options, decoder.spec(), &plans)
    }
}
