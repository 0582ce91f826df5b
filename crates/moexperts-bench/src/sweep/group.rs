//! Combinations that differ in the backend and the way to compile alone: measured together.

use std::time::Duration;

use moexperts::LanguageModel;
use moexperts_report::{Cell, Key};

use super::state::Sweep;
use crate::{
    error::BenchError,
    generation::{Counted, Taken, TimedGeneration, Variant, count},
    hardware::device_of,
    output::text::rounded,
};

/// Tokens of a prompt that take about as long as a decode step: only the time that the bar shows
/// depends on it.
const TOKENS_PER_STEP: usize = 32;

/// What is to be measured together.
#[derive(Debug)]
pub(crate) struct SweepGroup<'v> {
    pub(crate) task: TimedGeneration,
    /// What has not all its runs yet.
    pub(crate) pending: Vec<(Key, &'v Variant)>,
}

impl SweepGroup<'_> {
    /// What its combinations have in common.
    pub(crate) fn title(&self) -> String {
        let Some((Key { batch, sequence, new_tokens, .. }, _)) = self.pending.first() else {
            return String::new();
        };
        format!("batch {batch}, sequence {sequence}, new {new_tokens}")
    }

    /// Whether a combination is one of them.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.pending.iter().any(|(pending, _)| pending == key)
    }

    /// About how much work it is.
    pub(crate) fn units(&self, repetitions: usize) -> u64 {
        (self.pending.len() as u64 * self.units_of_one()) * (1 + repetitions as u64)
    }

    fn units_of_one(&self) -> u64 {
        let prompts: usize = self.task.prompts.iter().map(Vec::len).sum();
        (prompts + (self.task.new_tokens - 1) * TOKENS_PER_STEP) as u64
    }

    /// Runs each once for itself, and then all in turn until each has its runs. What fails in the first
    /// is listed with the reason.
    pub(crate) fn measure(
        &self,
        sweep: &mut Sweep<'_>,
        model: &LanguageModel,
    ) -> Result<(), BenchError> {
        let mut contestants = self.first_runs(sweep, model)?;
        let Some((_, first)) = contestants.first() else { return Ok(()) };
        let counted = count(model, &first.backend, &self.task, || sweep.interrupts.stopped())?;
        let Counted { prefill, decode } = counted.ok_or_else(|| sweep.interrupted())?;
        for (cell, _) in &mut contestants {
            (cell.prefill, cell.decode) = (prefill, decode);
        }
        let wanted = sweep.repetitions();
        while contestants.iter().any(|(cell, _)| cell.runs() < wanted) {
            let measured = self.turn(sweep, model, &mut contestants);
            sweep.keep(contestants.iter().map(|(cell, _)| cell))?;
            measured?;
        }
        Ok(())
    }

    /// What can run, with its memory; what it makes on first use is made.
    fn first_runs(
        &self,
        sweep: &mut Sweep<'_>,
        model: &LanguageModel,
    ) -> Result<Vec<(Cell, &Variant)>, BenchError> {
        let mut contestants = Vec::new();
        let mut cleared = Vec::new();
        for (key, variant) in &self.pending {
            // What another has made is not this one's memory.
            model.clear_backend_caches();
            match self.run(sweep, model, variant) {
                Ok(taken) => {
                    let mut cell = sweep.cell(key).unwrap_or_else(|| cell(model, key));
                    cell.peak_memory_bytes = taken.peak_memory_bytes;
                    contestants.push((cell, *variant));
                    if model.backend_cache_bytes() > 0 {
                        cleared.push(*variant);
                    }
                }
                Err(BenchError::Model(error)) => {
                    sweep.bar.inc((1 + sweep.repetitions()) as u64 * self.units_of_one());
                    sweep.fail(key, error.to_string())?;
                }
                Err(error) => return Err(error),
            }
        }
        // The next one's run dropped what these keep for a layer.
        for variant in cleared {
            variant.choose(model)?;
            self.task.shortest().finish(model)?;
        }
        Ok(contestants)
    }

    /// One generation of each that lacks one.
    fn turn(
        &self,
        sweep: &Sweep<'_>,
        model: &LanguageModel,
        contestants: &mut [(Cell, &Variant)],
    ) -> Result<(), BenchError> {
        for (cell, variant) in contestants {
            if cell.runs() < sweep.repetitions() {
                let taken = self.run(sweep, model, variant)?;
                let ms = |time: Duration| rounded(1e3 * time.as_secs_f64());
                cell.generation_ms.push(ms(taken.generation));
                cell.prefill_ms.push(ms(taken.prefill));
                cell.decode_ms.push(ms(taken.decode));
            }
        }
        Ok(())
    }

    /// One generation.
    fn run(
        &self,
        sweep: &Sweep<'_>,
        model: &LanguageModel,
        variant: &Variant,
    ) -> Result<Taken, BenchError> {
        variant.choose(model)?;
        let taken = self.task.run(model, || sweep.interrupts.stopped())?;
        sweep.bar.inc(self.units_of_one());
        taken.ok_or_else(|| sweep.interrupted())
    }
}

/// A cell without runs.
fn cell(model: &LanguageModel, key: &Key) -> Cell {
    let decode = device_of(model).decode_experts(&key.implementation).to_owned();
    Cell::new(key.clone(), decode)
}
