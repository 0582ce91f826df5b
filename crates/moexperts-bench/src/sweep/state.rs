//! A sweep at work: what it was told to do, what it has measured, and where that is kept.

use std::{collections::BTreeSet, ffi::OsString};

use indicatif::ProgressBar;
use moexperts::{DType, DeviceName, LanguageModel};
use moexperts_report::{Cell, Key, Results, Skipped, Target};

use super::{folder::Folder, row};
use crate::{
    args::BenchSweepArgs,
    error::BenchError,
    hardware::device_name,
    interrupts::Interrupts,
    limits::MachineLimits,
    load::DefaultModel,
    output::{print, progress, text::rounded},
};

/// What a target is called: a device with the model in a dtype, if it is known yet.
#[derive(Debug)]
pub(crate) struct Name {
    pub(crate) device: String,
    pub(crate) dtype: Option<String>,
}

impl Name {
    /// - `device`: as the user named it
    pub(crate) fn of(model: &LanguageModel, device: DeviceName) -> Self {
        let device = match device {
            // GPUs of one machine are told apart.
            DeviceName::Cuda(1..) => device.to_string(),
            _ => device_name(model.device_name()),
        };
        Self { device, dtype: Some(model.dtype().map_or("none", DType::name).to_owned()) }
    }

    /// Something that cannot run there, whatever else.
    pub(crate) fn skipped(&self, reason: String) -> Skipped {
        let mut skipped = Skipped::new(reason);
        (skipped.device, skipped.dtype) = (Some(self.device.clone()), self.dtype.clone());
        skipped
    }
}

/// A sweep at work.
pub(crate) struct Sweep<'a> {
    pub(crate) args: &'a BenchSweepArgs,
    pub(crate) default: DefaultModel,
    pub(crate) folder: Folder,
    pub(crate) results: Results,
    /// Combinations that can run.
    pub(crate) planned: BTreeSet<Key>,
    pub(crate) targets_left: usize,
    /// Whether anything was measured that was not known before.
    pub(crate) measured: bool,
    pub(crate) interrupts: Interrupts,
    pub(crate) bar: ProgressBar,
}

impl<'a> Sweep<'a> {
    pub(crate) fn new(
        args: &'a BenchSweepArgs,
        words: &[OsString],
        folder: Folder,
        default: DefaultModel,
    ) -> Result<Self, BenchError> {
        let results = folder.results(args, words)?;
        let planned = results.cells.iter().map(|cell| cell.key.clone()).collect();
        let (interrupts, bar) = (Interrupts::during_work(), progress::work(0));
        Ok(Self {
            args,
            default,
            folder,
            results,
            planned,
            targets_left: 0,
            measured: false,
            interrupts,
            bar,
        })
    }

    /// Measures, and writes what there is, whatever came of it; nothing if that is an error alone.
    pub(crate) fn finish_with(
        mut self,
        measure: impl FnOnce(&mut Self) -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        let measured = measure(&mut self);
        self.bar.finish_and_clear();
        if measured.is_err() && !self.measured {
            // Results that were there are not to get the command line of a sweep that was refused.
            return measured;
        }
        if self.results.cells.is_empty() {
            let reason = self.results.skipped.first().map(|skipped| skipped.reason.clone());
            return Err(BenchError::SweepEmpty { reason: reason.unwrap_or_default() });
        }
        let written = self.folder.write_all(&mut self.results, self.args.reference);
        measured?;
        let written = written?;
        self.show(|| print(&format!("\nwritten   {written}\n")))
    }

    /// Shows something on standard output. Its reader may be gone: the results are the files.
    pub(crate) fn show(
        &self,
        show: impl FnOnce() -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        match show() {
            Err(BenchError::BrokenPipe) => Ok(()),
            shown => shown,
        }
    }

    pub(crate) fn is_complete(&self, key: &Key) -> bool {
        self.cell(key).is_some_and(|cell| cell.runs() >= self.repetitions())
    }

    pub(crate) fn repetitions(&self) -> usize {
        self.results.repetitions
    }

    /// What is known of a combination.
    pub(crate) fn cell(&self, key: &Key) -> Option<Cell> {
        self.results.cells.iter().find(|cell| &cell.key == key).cloned()
    }

    /// Takes cells in place of what was known of them, and writes everything.
    pub(crate) fn keep<'c>(
        &mut self,
        cells: impl Iterator<Item = &'c Cell>,
    ) -> Result<(), BenchError> {
        for new in cells.filter(|cell| cell.runs() > 0) {
            self.measured = true;
            // It may have failed before.
            self.results.skipped.retain(|skipped| !is_of(skipped, &new.key));
            match self.results.cells.iter_mut().find(|cell| cell.key == new.key) {
                Some(cell) => *cell = new.clone(),
                None => self.results.cells.push(new.clone()),
            }
        }
        self.folder.write(&mut self.results)
    }

    /// Takes the limits of this run, after those that were known before it.
    pub(crate) fn keep_limits(&mut self, target: usize, known: &Target, limits: &MachineLimits) {
        let target = &mut self.results.targets[target];
        let (bytes_per_second, flops_per_second, operations) = limits.measured();
        let rates = |known: &[f64], new: &[f64]| {
            known.iter().copied().chain(new.iter().copied().map(rounded)).collect()
        };
        target.bytes_per_second = rates(&known.bytes_per_second, bytes_per_second);
        target.flops_per_second = rates(&known.flops_per_second, flops_per_second);
        target.operations = operations.to_owned();
    }

    /// Lists a combination that turned out not to run.
    pub(crate) fn fail(&mut self, key: &Key, reason: String) -> Result<(), BenchError> {
        if self.cell(key).is_none() && self.planned.remove(key) {
            self.results.planned -= 1;
        }
        let Key { batch, sequence, new_tokens, .. } = *key;
        let name = Name { device: key.device.clone(), dtype: Some(key.dtype.clone()) };
        let mut failed = name.skipped(reason);
        (failed.batch, failed.sequence) = (Some(batch), Some(sequence));
        failed.new_tokens = Some(new_tokens);
        failed.compile = Some(key.compile.clone());
        failed.implementation = Some(key.implementation.clone());
        let line = row::not_run(&failed);
        self.skip(failed);
        self.show(|| self.bar.suspend(|| print(&format!("{line}\n"))))
    }

    /// Lists something that cannot run, once.
    pub(crate) fn skip(&mut self, skipped: Skipped) {
        if !self.results.skipped.contains(&skipped) {
            self.results.skipped.push(skipped);
        }
    }

    /// The error of a sweep that Ctrl-C ends.
    pub(crate) fn interrupted(&self) -> BenchError {
        BenchError::Interrupted {
            complete: self.results.complete_cells(),
            planned: self.results.planned,
            path: self.folder.path().to_owned(),
        }
    }
}

/// Whether something skipped is this very combination.
fn is_of(skipped: &Skipped, key: &Key) -> bool {
    skipped.device.as_ref() == Some(&key.device)
        && skipped.dtype.as_ref() == Some(&key.dtype)
        && skipped.batch == Some(key.batch)
        && skipped.sequence == Some(key.sequence)
        && skipped.new_tokens == Some(key.new_tokens)
        && skipped.compile.as_ref() == Some(&key.compile)
        && skipped.implementation.as_ref() == Some(&key.implementation)
}
