//! Everything that is measured on a device in a dtype.

use std::{num::NonZero, time::Instant};

use moexperts::{AnyDevice, AutoModel, DType, DeviceName, LanguageModel};
use moexperts_report::{Key, Target};

use super::{
    distinct::distinct,
    group::SweepGroup,
    row,
    state::{Name, Sweep},
};
use crate::{
    args::DTypeArg,
    backends::Backends,
    error::BenchError,
    free_memory::FreeMemory,
    generation::{Chosen, TimedGeneration, Variant, Variants},
    hardware::{Hardware as _, device_of},
    limits::MachineLimits,
    load::load,
    output::{
        table::Table,
        text::{cached, rounded},
    },
    pool::filling_threads,
    random_model::RandomModel,
};

impl Sweep<'_> {
    /// Everything on a device in a dtype.
    pub(crate) fn target(
        &mut self,
        device: AnyDevice,
        name: DeviceName,
        dtype: DTypeArg,
    ) -> Result<(), BenchError> {
        let start = Instant::now();
        let model = &self.load(device, dtype)?;
        let name = &Name::of(model, name);
        if model.dtype().is_none() {
            self.skip(name.skipped("the model has no experts".to_owned()));
            return Ok(());
        }
        let load_seconds = start.elapsed().as_secs_f64();
        self.folder.enter_model(&mut self.results, model.origin())?;
        let mut limits = MachineLimits::measure(&device_of(model), model.dtype())?;
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

    fn load(&self, device: AnyDevice, dtype: DTypeArg) -> Result<LanguageModel, BenchError> {
        let args = self.args;
        let (Some(shape), Some(layers)) = (&args.shape, args.layers) else {
            return load(device, args.model.as_deref(), args.load_options(dtype), self.default);
        };
        let dtype = dtype.dtype().unwrap_or(DType::Bf16);
        let model = RandomModel::new(shape, layers.get(), dtype)?;
        let files = model.files(args.seed, FreeMemory::now(&device), filling_threads(&device))?;
        Ok(AutoModel::from_files_on(device, files, args.load_options(DTypeArg::Auto))?)
    }

    /// The backends and ways to compile that can run; the others are listed.
    fn variants(&mut self, name: &Name, model: &LanguageModel) -> Result<Variants, BenchError> {
        let args = self.args;
        let backends = Backends::on_any(&device_of(model), &distinct(args.backends()))?;
        let (able, refused) = backends
            .sorted_out(|name| model.set_experts_implementation(name).map(|()| name.to_owned()));
        for refused in refused {
            let mut skipped = name.skipped(refused.error.to_string());
            skipped.implementation = Some(refused.name);
            self.skip(skipped);
        }
        let context = model.spec().trained_length();
        let variants = Variants::all(
            model,
            &Chosen {
                backends: &able,
                ways: &distinct(&args.compile.ways()),
                limits: &args.compile.limits,
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
            let mut skipped = name.skipped(error.to_string());
            skipped.compile = Some(compile.to_string());
            skipped.implementation = Some(backend.clone());
            self.skip(skipped);
        }
        Ok(variants)
    }

    /// Enters the target, or finds it, and says where.
    fn describe(
        &mut self,
        name: &Name,
        model: &LanguageModel,
        load_seconds: f64,
        compiled: &[String],
    ) -> Result<usize, BenchError> {
        let device = device_of(model);
        let weights = model.load_report();
        let few = cached(weights.in_place_bytes + weights.converted_bytes);
        let compiled = compiled.iter().map(|line| format!("compiled {line}"));
        let dtype = name.dtype.clone().unwrap_or_default();
        let mut target = Target::new(name.device.clone(), dtype, device.machine());
        (target.threads, target.load_s) = (device.threads(), rounded(load_seconds));
        target.notes = compiled.chain(few).collect();
        self.folder.enter_target(&mut self.results, target)
    }

    /// What is measured together, and what of it is not complete yet.
    fn groups<'v>(
        &mut self,
        name: &Name,
        model: &LanguageModel,
        variants: &'v [Variant],
    ) -> Vec<SweepGroup<'v>> {
        let args = self.args;
        let context = model.spec().trained_length();
        let mut groups = Vec::new();
        for batch in distinct(&args.batch).into_iter().map(NonZero::get) {
            for sequence in distinct(&args.seq).into_iter().map(NonZero::get) {
                for new_tokens in distinct(&args.new_tokens) {
                    if sequence.saturating_add(new_tokens) > context {
                        let error =
                            BenchError::BenchContext { prompt: sequence, new: new_tokens, context };
                        let mut skipped = name.skipped(error.to_string());
                        skipped.sequence = Some(sequence);
                        skipped.new_tokens = Some(new_tokens);
                        self.skip(skipped);
                        continue;
                    }
                    let key = |variant: &Variant| Key {
                        device: name.device.clone(),
                        dtype: name.dtype.clone().unwrap_or_default(),
                        batch,
                        sequence,
                        new_tokens,
                        compile: variant.compile.to_string(),
                        implementation: variant.backend.clone(),
                    };
                    let keyed = variants.iter().map(|variant| (key(variant), variant));
                    self.planned.extend(variants.iter().map(key));
                    let pending =
                        keyed.filter(|(key, _)| !self.is_complete(key)).collect::<Vec<_>>();
                    if !pending.is_empty() {
                        let task =
                            TimedGeneration::random(model, batch, sequence, new_tokens, args.seed);
                        groups.push(SweepGroup { task, pending });
                    }
                }
            }
        }
        // Targets that come later are taken to be like this one; a sweep that goes on knows of them.
        let later = if self.folder.goes_on() { 0 } else { self.targets_left };
        self.results.planned = self.planned.len() * (1 + later);
        groups
    }
}
