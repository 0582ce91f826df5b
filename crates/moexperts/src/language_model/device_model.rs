//! A model on a device of a known type: its parts, and forwards over them.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use moexperts_core::{Batch, Device, Execution, ExpertsBackend, Span, made};

use super::{
    options::LoadOptions,
    runner::{ForwardInput, UnreadPrompt, check_context, text_only},
};
use crate::{
    checkpoint::Checkpoint,
    compile::{Compiled, LastPlan, Plan, ShapeClass},
    error::Result,
    experts_implementation::{Backbone, ExpertsChoices, Phase},
    graph::{Observer, Stage, VisualFeatures, VisualRows},
    model::{
        Decoder, DecoderSpec, Fit, Forward, Input, LogitsRows, Memory, ModelSpec, VisionTower,
    },
    prompt::{Prompt, Visual},
    session::SessionMemory,
    weights::{LoadReport, Weights},
};

/// The part of a [`LanguageModel`](crate::LanguageModel) that is on its device: decoder, vision tower,
/// the backends of the experts, and what compiling made.
///
/// [`LanguageModel::on`](crate::LanguageModel::on) gives it to callers that know the type of the
/// device.
#[derive(Debug)]
pub struct DeviceModel<D: Device> {
    pub(super) origin: String,
    pub(super) decoder: Decoder<D>,
    pub(super) tower: Option<VisionTower<D>>,
    pub(super) setup: RwLock<Arc<Setup<D>>>,
    /// The number of the setup, 0 while the model is not compiled: a caller whose plan is of this
    /// number need not look at the setup.
    pub(super) compiled: AtomicU64,
}

/// How forwards are executed. Never changed: a switch makes a new one, so a forward that started
/// with the old one finishes with it.
#[derive(Debug)]
pub(super) struct Setup<D: Device> {
    pub(super) choices: ExpertsChoices<D>,
    pub(super) compiled: Option<Arc<Compiled<D>>>,
    /// Counts the setups; the first is 1.
    pub(super) number: u64,
}

/// What a session holds on the device.
#[derive(Debug)]
pub(super) struct DeviceMemory<D: Device> {
    pub(super) forward: Memory<D>,
    /// The plan of the last forward.
    last_plan: Option<LastPlan<D>>,
    /// Pictures of the next forward.
    visuals: Vec<VisualRows<D>>,
}

impl<D: Device> SessionMemory for DeviceMemory<D> {}

/// A plan and the backend it is run with.
type PlanAndBackend<D> = (Arc<Plan<D>>, Arc<dyn ExpertsBackend<<D as Execution>::Experts>>);

impl<D: Device> DeviceModel<D> {
    pub(super) fn load(
        device: D,
        origin: String,
        spec: ModelSpec,
        checkpoint: &Checkpoint,
        options: &LoadOptions,
    ) -> Result<(Self, LoadReport)> {
        let Fit { spec, checkpoint, inventory, warnings, .. } = spec.fit(checkpoint)?;
        let mut weights =
            Weights::new(&device, &checkpoint, inventory, options.dtype, &*options.progress);
        let decoder = Decoder::load(spec.text, &mut weights)?;
        let tower = spec.vision.map(|spec| VisionTower::load(spec, &mut weights)).transpose()?;
        weights.finish();
        let mut report = weights.report().clone();
        report.warnings.extend(warnings);
        tracing::info!(
            in_place_bytes = report.in_place_bytes,
            converted_bytes = report.converted_bytes,
            "loaded the weights"
        );
        let choices = ExpertsChoices::none().with(
            &options.experts_implementation,
            &backbones(&decoder, tower.as_ref()),
            &device,
        )?;
        let setup = RwLock::new(Arc::new(Setup { choices, compiled: None, number: 1 }));
        Ok((Self { origin, decoder, tower, setup, compiled: AtomicU64::new(0) }, report))
    }

    /// Where the model computes.
    pub fn device(&self) -> &D {
        self.decoder.device()
    }

    /// What turns pictures into rows of the decoder, if the model is multimodal.
    pub fn vision_tower(&self) -> Option<&VisionTower<D>> {
        self.tower.as_ref()
    }

    /// [`LanguageModel::logits`](crate::LanguageModel::logits), showing every stage of every layer
    /// on the way.
    ///
    /// # Errors
    /// As there.
    pub fn logits_observed(
        &self,
        prompt: impl Into<Prompt>,
        observer: Observer<'_, D>,
    ) -> Result<Vec<f32>> {
        self.logits_of(&prompt.into(), Some(observer))
    }

    /// What a decoder reads of a picture: by a plan if the model is compiled.
    ///
    /// # Errors
    /// [`Error::TextOnly`](crate::Error::TextOnly) if the model reads text only; if the pixels are not cut into patches as
    /// the model's vision tower takes them.
    pub fn visual_features(&self, visual: &Visual) -> Result<VisualFeatures<D>> {
        let tower = self.tower.as_ref().ok_or_else(|| text_only(&self.origin, self.spec()))?;
        let pixels = visual.pixels();
        match &self.setup().compiled {
            Some(compiled) => {
                compiled.picture_plan(tower, pixels.patches())?.features(tower, pixels)
            }
            None => tower.features(pixels),
        }
    }

    pub(super) fn spec(&self) -> &DecoderSpec {
        self.decoder.spec()
    }

    pub(super) fn setup(&self) -> Arc<Setup<D>> {
        Arc::clone(&self.setup.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn backend<'c>(
        &self,
        choices: &'c ExpertsChoices<D>,
        phase: Phase,
    ) -> &'c Arc<dyn ExpertsBackend<D::Experts>> {
        choices.backend(self.spec().backbone, phase)
    }

    pub(super) fn backbones(&self) -> Vec<Backbone> {
        backbones(&self.decoder, self.tower.as_ref())
    }

    pub(super) fn memory(&self, sequences: usize) -> Result<DeviceMemory<D>> {
        let forward = self.decoder.memory(sequences)?;
        Ok(DeviceMemory { forward, last_plan: None, visuals: Vec::new() })
    }

    pub(super) fn logits_of(
        &self,
        prompt: &Prompt,
        observer: Option<Observer<'_, D>>,
    ) -> Result<Vec<f32>> {
        let tokens = prompt.tokens().len();
        check_context(tokens)?;
        let mut memory = self.memory(1)?;
        let batch = Batch::new(vec![Span { sequence: 0, start: 0, tokens }]);
        let positions: Vec<_> = (0..tokens).map(|index| prompt.position(index)).collect();
        self.take_pictures([UnreadPrompt { prompt, start: 0, first_row: 0 }], &mut memory)?;
        let input = ForwardInput {
            ids: prompt.tokens(),
            batch: &batch,
            positions: &positions,
            logits: LogitsRows::All,
            phase: Phase::Prefill,
        };
        let mut logits = Vec::new();
        self.run(input, &mut memory, observer, &mut logits)?;
        Ok(logits)
    }

    /// One forward, which writes its logits [rows, V]: by a plan if the model is compiled and the
    /// forward is not observed.
    pub(super) fn run(
        &self,
        input: ForwardInput<'_>,
        memory: &mut DeviceMemory<D>,
        observer: Option<Observer<'_, D>>,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let visuals = std::mem::take(&mut memory.visuals);
        let ForwardInput { ids, batch, positions, logits: rows, phase } = input;
        let input = Input { ids, batch, positions, visuals: &visuals, logits: rows };
        let planned = match observer {
            None => self.plan(&input, &mut memory.last_plan, phase)?,
            Some(_) => None,
        };
        let memory = &mut memory.forward;
        if let Some((plan, experts)) = planned {
            let call = Forward { input, memory, experts: &*experts, observer: None };
            return plan.forward(&self.decoder, call, logits);
        }
        let setup = self.setup();
        let experts = &**self.backend(&setup.choices, phase);
        let mut observe = observer
            .map(|observer| move |layer: usize, stage: Stage<'_, D>| observer(layer, stage));
        let observer = observe.as_mut().map(|observe| observe as Observer<'_, D>);
        self.decoder.forward(Forward { input, memory, experts, observer }, logits)
    }

    /// The plan of a forward and its backend, if the model is compiled. Those of the session's last
    /// forward are found without a lock.
    fn plan(
        &self,
        input: &Input<'_, D>,
        last_plan: &mut Option<LastPlan<D>>,
        phase: Phase,
    ) -> Result<Option<PlanAndBackend<D>>> {
        let number = self.compiled.load(Ordering::Acquire);
        if number == 0 {
            return Ok(None);
        }
        let class = ShapeClass::of(input);
        if let Some(last) = last_plan
            && (last.state, last.phase, last.plan.class()) == (number, phase, class)
            && let Some(backend) = last.backend.upgrade()
        {
            return Ok(Some((Arc::clone(&last.plan), backend)));
        }
        let setup = self.setup();
        let Some(compiled) = &setup.compiled else { return Ok(None) };
        let backend = self.backend(&setup.choices, phase);
        let plan = compiled.plan(&self.decoder, backend, class)?;
        *last_plan = Some(LastPlan {
            state: setup.number,
            phase,
            plan: Arc::clone(&plan),
            backend: Arc::downgrade(backend),
        });
        Ok(Some((plan, Arc::clone(backend))))
    }

    /// Reads the pictures among the unread tokens of prompts, for the next forward on `memory`;
    /// returns how many patches they have.
    pub(super) fn take_pictures<'p>(
        &self,
        prompts: impl IntoIterator<Item = UnreadPrompt<'p>>,
        memory: &mut DeviceMemory<D>,
    ) -> Result<usize> {
        memory.visuals.clear();
        let (mut visuals, mut patches) = (Vec::new(), 0);
        for UnreadPrompt { prompt, start, first_row } in prompts {
            if self.tower.is_none() && prompt.visuals().next().is_some() {
                return Err(text_only(&self.origin, self.spec()));
            }
            for unread in prompt.unread_visuals(start, first_row) {
                let mut features = self.visual_features(unread.visual)?;
                if unread.is_part {
                    features = self.part(&features, &unread.own_rows)?;
                }
                patches += unread.visual.pixels().patches();
                visuals.push(VisualRows { rows: unread.rows, features });
            }
        }
        memory.visuals = visuals;
        Ok(patches)
    }

    /// Some rows of a picture, of which the others were read before.
    fn part(&self, features: &VisualFeatures<D>, rows: &[usize]) -> Result<VisualFeatures<D>> {
        let select = |x: &D::Tensor| made(|out| self.device().select_rows(x, rows, out));
        let deepstack = features.deepstack.iter().map(select);
        Ok(VisualFeatures {
            embeddings: select(&features.embeddings)?,
            deepstack: deepstack.collect::<Result<_, _>>()?,
        })
    }
}

/// The parts of a model that have a backend each: a text model has one, itself.
fn backbones<D: Device>(decoder: &Decoder<D>, tower: Option<&VisionTower<D>>) -> Vec<Backbone> {
    let experts = decoder.experts().iter().map(|experts| *experts.spec()).collect();
    let text = Backbone { key: decoder.spec().backbone.to_owned(), experts };
    // A tower without experts takes any name, so that one map serves many models.
    let vision =
        tower.map(|tower| Backbone { key: tower.spec().backbone.to_owned(), experts: Vec::new() });
    [text].into_iter().chain(vision).collect()
}
