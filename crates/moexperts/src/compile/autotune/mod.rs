//! Which settings of the kernels are fastest here, on a model's weights and shapes.
//!
//! `kinds` says which steps of a plan are alike, `measure` times them on the inputs of `probe`, and
//! `copies` keeps the copies of weights that were worth it.

mod copies;
mod kinds;
mod measure;
mod probe;

use std::sync::{Arc, Mutex, PoisonError};

use moexperts_core::{Device, Experts};

use self::{
    copies::Copies,
    kinds::{Kinds, kinds, weight_bytes, with_knobs},
    measure::Bench,
};
use super::{choices::MeasuredChoices, plan::Plan, subject::Subject};
use crate::{error::Result, progress::Progress};

/// Measures plans and remembers what was fastest.
#[derive(Debug)]
pub(super) struct Autotuner<D: Device> {
    choices: Mutex<MeasuredChoices>,
    copies: Mutex<Copies<D>>,
}

/// How the settings of a plan came about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tuned {
    /// Kinds of operations that were measured.
    pub(super) measured: usize,
    /// Kinds whose settings were known.
    pub(super) known: usize,
}

impl<D: Device> Autotuner<D> {
    /// - `memory_bytes`: what copies of weights may take
    pub(super) fn new(choices: MeasuredChoices, memory_bytes: usize) -> Self {
        Self { choices: Mutex::new(choices), copies: Mutex::new(Copies::new(memory_bytes)) }
    }

    /// The experts that are copies.
    pub(super) fn experts(&self) -> Vec<Arc<Experts<D::Experts>>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner).experts()
    }

    /// Bytes of the copies of weights there are.
    pub(super) fn copied_bytes(&self) -> usize {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner).used_bytes()
    }

    /// Gives every step of a plan the settings that are fastest on this machine, from the cache or
    /// by measuring them on made-up tokens.
    ///
    /// # Errors
    /// As a forward, and if the device is out of memory for a copy.
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
            let can_copy = || weight_bytes(&plan.program.steps[steps[0]]) <= copies.left_bytes();
            choices.get(key).is_some_and(|choice| choice.copy.is_some() || !can_copy())
        };
        let (known, unknown): (Kinds, Kinds) = kinds
            .iter()
            .map(|(key, steps)| (key.clone(), steps.clone()))
            .partition(|(key, steps)| is_known(key, steps));
        if !unknown.is_empty() {
            let mut bench = Bench::new(plan, subject, &unknown, progress)?;
            let measured = bench.measure(copies.left_bytes())?;
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
                step.device = with_knobs(subject.device(), &choice.knobs);
                if choice.copy == Some(true) {
                    copies.replace(step)?;
                }
            }
        }
        Ok(Tuned { measured: unknown.len(), known: known.len() })
    }
}
