//! `moexperts bench sweep`.

mod folder;
mod group;
mod row;

use std::{collections::BTreeSet, ffi::OsString, num::NonZero, time::Instant};

use indicatif::ProgressBar;
use moexperts::{AutoModel, DType, Device, DeviceName, LanguageModel};
use moexperts_report::{Cell, Key, Results, Skipped, Target};

pub(in crate::commands) use self::folder::Folder;
use self::group::Group;
use super::{
    backends::Backends,
    cached, device_name,
    generation::{Asked, Task, Variant, Variants},
    limits::Limits,
    pool::filling_threads,
    random_model::RandomModel,
    room::Room,
    rounded,
    table::Table,
};
use crate::{
    args::{BenchSweepArgs, DTypeArg},
    commands::{load, print},
    error::CliError,
    hardware::Hardware,
    interrupts::Interrupts,
    progress,
};

pub(super) fn run(args: &BenchSweepArgs, words: &[OsString]) -> Result<(), CliError> {
    let folder = Folder::open(&args.out, args.resume)?;
    Interrupts::listen()?;
    let sweep = Sweep::new(args, words, folder)?;
    let dtypes = &distinct(&args.dtype);
    let targets: Vec<_> = distinct(&args.device)
        .into_iter()
        .flat_map(|device| dtypes.iter().map(move |&dtype| (device, dtype)))
        .collect();
    sweep.finish_with(|sweep| {
        for (index, &(device, dtype)) in targets.iter().enumerate() {
            sweep.targets_left = targets.len() - index - 1;
            match args.find(device) {
                Ok(found) => on_device!(found, found => sweep.target(found, device, dtype)?),
                Err(error) => {
                    let name = Name { device: device.to_string(), dtype: None };
                    sweep.skip(name.skipped(error.to_string()));
                }
            }
        }
        sweep.results.planned = sweep.planned.len();
        Ok(())
    })
}

/// What a target is called: a device with the model in a dtype, if it is known yet.
#[derive(Debug)]
struct Name {
    device: String,
    dtype: Option<String>,
}

impl Name {
    /// - `device`: as the user named it
    fn of<D: Device>(model: &LanguageModel<D>, device: DeviceName) -> Self {
        let device = match device {
            // GPUs of one machine are told apart.
            DeviceName::Cuda(1..) => device.to_string(),
            _ => device_name::<D>(),
        };
        Self { device, dtype: Some(model.dtype().map_or("none", DType::name).to_owned()) }
    }

    /// Something that cannot run there, whatever else.
    fn skipped(&self, reason: String) -> Skipped {
        Skipped {
            device: Some(self.device.clone()),
            dtype: self.dtype.clone(),
            batch: None,
            sequence: None,
            new_tokens: None,
            compile: None,
            implementation: None,
            reason,
        }
    }
}

/// A sweep at work.
pub(in crate::commands) struct Sweep<'a> {
    args: &'a BenchSweepArgs,
    folder: Folder,
    results: Results,
    /// Combinations that can run.
    planned: BTreeSet<Key>,
    targets_left: usize,
    /// Whether anything was measured that was not known before.
    measured: bool,
    interrupts: Interrupts,
    bar: ProgressBar,
}

impl<'a> Sweep<'a> {
    pub(in crate::commands) fn new(
        args: &'a BenchSweepArgs,
        words: &[OsString],
        folder: Folder,
    ) -> Result<Self, CliError> {
        let results = folder.results(args, words)?;
        let planned = results.cells.iter().map(|cell| cell.key.clone()).collect();
        let (interrupts, bar) = (Interrupts::during_work(), progress::work(0));
        Ok(Self {
            args,
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
    pub(in crate::commands) fn finish_with(
        mut self,
        measure: impl FnOnce(&mut Self) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let measured = measure(&mut self);
        self.bar.finish_and_clear();
        if measured.is_err() && !self.measured {
            // Results that were there are not to get the command line of a sweep that was refused.
            return measured;
        }
        if self.results.cells.is_empty() {
            let reason = self.results.skipped.first().map(|skipped| skipped.reason.clone());
            return Err(CliError::SweepEmpty { reason: reason.unwrap_or_default() });
        }
        let written = self.folder.write_all(&mut self.results, self.args.reference);
        measured?;
        let written = written?;
        self.show(|| print(&format!("\nwritten   {written}\n")))
    }

    /// Everything on a device in a dtype.
    pub(in crate::commands) fn target<D: Hardware>(
        &mut self,
        device: D,
        name: DeviceName,
        dtype: DTypeArg,
    ) -> Result<(), CliError> {
        let start = Instant::now();
        let model = &self.load(device, dtype)?;
        let name = &Name::of(model, name);
        if model.dtype().is_none() {
            self.skip(name.skipped("the model has no experts".to_owned()));
            return Ok(());
        }
        let load_seconds = start.elapsed().as_secs_f64();
        self.folder.enter_model(&mut self.results, model.origin())?;
        let mut limits = Limits::measure(model.device(), model.dtype())?;
        let variants = self.variants(name, model)?;
        let target = self.describe(name, model, load_seconds, &variants.lines)?;
        let known = self.results.targets[target].clone();
        self.keep_limits(target, &known, &limits);
        let groups = self.groups(name, model, &variants.able);

        let units = groups.iter().map(|group| group.units(self.repetitions())).sum::<u64>();
        self.bar.set_length(self.bar.position() + units * (1 + self.targets_left as u64));
        // Loading and compiling say nothing about the time that is left.
        self.bar.reset_eta();
        let table = Table::new(row::columns(&variants.able), self.bar.clone());
        for line in row::heading(&self.results, target) {
            self.show(|| table.line(&line))?;
        }
        if groups.is_empty() {
            return Ok(());
        }
        self.show(|| table.titles())?;
        for group in groups {
            limits.refresh()?;
            self.bar.set_message(group.title());
            let measured = group.measure(self, model);
            self.keep_limits(target, &known, &limits);
            measured?;
            for row in row::rows(&self.results, |key| group.has(key)) {
                self.show(|| table.row(row))?;
            }
        }
        limits.again()?;
        self.keep_limits(target, &known, &limits);
        self.show(|| table.line(&limits.summary(model.origin())))
    }

    /// Shows something on standard output. Whoever reads that may leave: the results are the files.
    fn show(&self, show: impl FnOnce() -> Result<(), CliError>) -> Result<(), CliError> {
        match show() {
            Err(CliError::BrokenPipe) => Ok(()),
            shown => shown,
        }
    }

    fn load<D: Hardware>(&self, device: D, dtype: DTypeArg) -> Result<LanguageModel<D>, CliError> {
        let args = self.args;
        let (Some(shape), Some(layers)) = (&args.shape, args.layers) else {
            return load(device, args.model.as_deref(), args.load_options(dtype));
        };
        let dtype = dtype.dtype().unwrap_or(DType::Bf16);
        let model = RandomModel::new(shape, layers.get(), dtype)?;
        let files = model.files(args.seed, Room::now(&device), filling_threads(&device))?;
        Ok(AutoModel::from_files_on(device, files, args.load_options(DTypeArg::Auto))?)
    }

    /// The backends and ways to compile that can run; the others are listed.
    fn variants<D: Hardware>(
        &mut self,
        name: &Name,
        model: &LanguageModel<D>,
    ) -> Result<Variants<D>, CliError> {
        let args = self.args;
        let backends = Backends::<D>::named(&distinct(args.backends()))?;
        let (able, refused) =
            backends.sorted_out(|backend| model.set_experts_implementation(backend.name()));
        for refused in refused {
            let implementation = Some(refused.name);
            let reason = refused.error.to_string();
            self.skip(Skipped { implementation, ..name.skipped(reason) });
        }
        let context = model.spec().max_position_embeddings;
        let variants = Variants::all(
            model,
            &Asked {
                backends: &able,
                compile: &distinct(&args.compile),
                limits: &args.limits,
                batch_sizes: args.batch.iter().map(|batch| batch.get()).collect(),
                prompt_tokens: args
                    .seq
                    .iter()
                    .map(|tokens| tokens.get())
                    .filter(|&tokens| tokens <= context)
                    .collect(),
            },
        )?;
        for (backend, compile, error) in &variants.broken {
            self.skip(Skipped {
                compile: Some(compile.to_string()),
                implementation: Some(backend.name().to_owned()),
                ..name.skipped(error.to_string())
            });
        }
        Ok(variants)
    }

    /// Enters the target, or finds it, and says where.
    fn describe<D: Hardware>(
        &mut self,
        name: &Name,
        model: &LanguageModel<D>,
        load_seconds: f64,
        compiled: &[String],
    ) -> Result<usize, CliError> {
        let device = model.device();
        let weights = model.load_report();
        let few = cached(weights.in_place_bytes + weights.converted_bytes);
        let compiled = compiled.iter().map(|line| format!("compiled {line}"));
        let target = Target {
            device: name.device.clone(),
            dtype: name.dtype.clone().unwrap_or_default(),
            hardware: device.machine(),
            threads: device.threads(),
            load_s: rounded(load_seconds),
            bytes_per_second: Vec::new(),
            flops_per_second: Vec::new(),
            operations: String::new(),
            notes: compiled.chain(few).collect(),
        };
        self.folder.enter_target(&mut self.results, target)
    }

    /// What is measured together, and what of it is not complete yet.
    fn groups<'v, D: Hardware>(
        &mut self,
        name: &Name,
        model: &LanguageModel<D>,
        variants: &'v [Variant<D>],
    ) -> Vec<Group<'v, D>> {
        let args = self.args;
        let context = model.spec().max_position_embeddings;
        let mut groups = Vec::new();
        for batch in distinct(&args.batch).into_iter().map(NonZero::get) {
            for sequence in distinct(&args.seq).into_iter().map(NonZero::get) {
                for new_tokens in distinct(&args.new_tokens) {
                    if sequence.saturating_add(new_tokens) > context {
                        let error =
                            CliError::BenchContext { prompt: sequence, new: new_tokens, context };
                        self.skip(Skipped {
                            sequence: Some(sequence),
                            new_tokens: Some(new_tokens),
                            ..name.skipped(error.to_string())
                        });
                        continue;
                    }
                    let key = |variant: &Variant<D>| Key {
                        device: name.device.clone(),
                        dtype: name.dtype.clone().unwrap_or_default(),
                        batch,
                        sequence,
                        new_tokens,
                        compile: variant.compile.to_string(),
                        implementation: variant.backend.name().to_owned(),
                    };
                    let keyed = variants.iter().map(|variant| (key(variant), variant));
                    self.planned.extend(variants.iter().map(key));
                    let pending =
                        keyed.filter(|(key, _)| !self.is_complete(key)).collect::<Vec<_>>();
                    if !pending.is_empty() {
                        let task = Task::random(model, batch, sequence, new_tokens, args.seed);
                        groups.push(Group { task, pending });
                    }
                }
            }
        }
        // Targets that come later are taken to be like this one; a sweep that goes on knows of them.
        let later = if self.folder.goes_on() { 0 } else { self.targets_left };
        self.results.planned = self.planned.len() * (1 + later);
        groups
    }

    fn is_complete(&self, key: &Key) -> bool {
        self.cell(key).is_some_and(|cell| cell.runs() >= self.repetitions())
    }

    fn repetitions(&self) -> usize {
        self.results.repetitions
    }

    /// What is known of a combination.
    fn cell(&self, key: &Key) -> Option<Cell> {
        self.results.cells.iter().find(|cell| &cell.key == key).cloned()
    }

    /// Takes cells in place of what was known of them, and writes everything.
    fn keep<'c>(&mut self, cells: impl Iterator<Item = &'c Cell>) -> Result<(), CliError> {
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
    fn keep_limits(&mut self, target: usize, known: &Target, limits: &Limits) {
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
    fn fail(&mut self, key: &Key, reason: String) -> Result<(), CliError> {
        if self.cell(key).is_none() && self.planned.remove(key) {
            self.results.planned -= 1;
        }
        let Key { batch, sequence, new_tokens, .. } = *key;
        let name = Name { device: key.device.clone(), dtype: Some(key.dtype.clone()) };
        let failed = Skipped {
            batch: Some(batch),
            sequence: Some(sequence),
            new_tokens: Some(new_tokens),
            compile: Some(key.compile.clone()),
            implementation: Some(key.implementation.clone()),
            ..name.skipped(reason)
        };
        let line = row::not_run(&failed);
        self.skip(failed);
        self.show(|| self.bar.suspend(|| print(&format!("{line}\n"))))
    }

    /// Lists something that cannot run, once.
    fn skip(&mut self, skipped: Skipped) {
        if !self.results.skipped.contains(&skipped) {
            self.results.skipped.push(skipped);
        }
    }

    /// The error of a sweep that Ctrl-C ends.
    fn interrupted(&self) -> CliError {
        CliError::Interrupted {
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

/// Each once, in order.
fn distinct<T: Clone + PartialEq>(all: &[T]) -> Vec<T> {
    let mut distinct: Vec<T> = Vec::new();
    for one in all {
        if !distinct.contains(one) {
            distinct.push(one.clone());
        }
    }
    distinct
}
