//! `moexperts bench model`.

mod cell;
mod row;

use std::{num::NonZero, time::Instant};

use moexperts::{AnyDevice, LanguageModel};

use self::{
    cell::ModelCell,
    row::{ModelRow, Subject},
};
use crate::{
    args::BenchModelArgs,
    backends::Backends,
    error::BenchError,
    generation::{Chosen, Variants},
    hardware::{Hardware as _, device_of},
    limits::MachineLimits,
    load::{DefaultModel, load},
    output::{file, table::Report, text::cached},
};

pub(crate) fn run(args: &BenchModelArgs, default: DefaultModel) -> Result<(), BenchError> {
    if let Some(path) = &args.common.json {
        file::check(path)?;
    }
    let start = Instant::now();
    bench(args, args.load.device.find()?, start, default)
}

/// - `start`: when loading began
pub(crate) fn bench(
    args: &BenchModelArgs,
    device: AnyDevice,
    start: Instant,
    default: DefaultModel,
) -> Result<(), BenchError> {
    let backends = Backends::on_any(&device, &args.common.experts_implementation)?;
    let model = &load(device, args.load.source.model.as_deref(), args.load.options(), default)?;
    let load_seconds = start.elapsed().as_secs_f64();
    check_context(args, model)?;
    let (able, mut reasons) =
        backends.able(|name| model.set_experts_implementation(name).map(|()| name.to_owned()))?;
    let counts = |counts: &[NonZero<usize>]| counts.iter().map(|count| count.get()).collect();
    let Variants { able: variants, broken, lines } = Variants::all(
        model,
        &Chosen {
            backends: &able,
            ways: &args.compile.ways(),
            limits: &args.compile.limits,
            batch_sizes: counts(&args.batch),
            prompt_tokens: counts(&args.prompt_tokens),
        },
    )?;
    for (_, _, error) in broken {
        if !args.common.experts_implementation.is_empty() {
            return Err(error.into());
        }
        reasons.push(error.to_string());
    }

    let device = &device_of(model);
    let rows = variants.len() * args.batch.len() * args.prompt_tokens.len();
    let columns = ModelRow::columns(&variants);
    let mut report = Report::new(columns, rows, args.common.json.as_deref());
    let dtype = model.dtype().map_or(String::new(), |dtype| format!(", {dtype}"));
    report.line(&format!("machine   {}", device.machine()))?;
    report.line(&format!("model     {}{dtype}, loaded in {load_seconds:.3} s", model.origin()))?;
    report.line("limits    the median of what was measured up to a row")?;
    for line in lines {
        report.line(&format!("compiled  {line}"))?;
    }
    let weights = model.load_report();
    let few = cached(weights.in_place_bytes + weights.converted_bytes);
    for reason in reasons.into_iter().chain(few) {
        report.line(&format!("note: {reason}"))?;
    }
    report.line("")?;
    report.titles()?;

    let mut limits = MachineLimits::measure(device, None)?;
    for batch in args.batch.iter().map(|batch| batch.get()) {
        for prompt_tokens in args.prompt_tokens.iter().map(|tokens| tokens.get()) {
            report.doing(format!("batch {batch}, {prompt_tokens} prompt tokens"));
            limits.refresh()?;
            let cell = ModelCell { args, model, variants: &variants, batch, prompt_tokens };
            let (measured, decode_bytes) = cell.measure()?;
            let new_tokens = args.new_tokens;
            let subject =
                Subject { model, load_seconds, batch, prompt_tokens, new_tokens, decode_bytes };
            for measured in &measured {
                let row = ModelRow::new(&subject, measured, limits.bandwidth());
                report.row(&row.cells(), &row)?;
            }
        }
    }
    limits.again()?;
    report.line(&limits.summary(model.origin()))
}

fn check_context(args: &BenchModelArgs, model: &LanguageModel) -> Result<(), BenchError> {
    let context = model.spec().trained_length();
    let prompts = args.prompt_tokens.iter().map(|tokens| tokens.get());
    match prompts.max() {
        Some(prompt) if prompt.saturating_add(args.new_tokens) > context => {
            Err(BenchError::BenchContext { prompt, new: args.new_tokens, context })
        }
        _ => Ok(()),
    }
}
