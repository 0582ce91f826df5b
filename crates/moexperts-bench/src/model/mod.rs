//! `moexperts bench model`.

mod row;

use std::{num::NonZero, time::Instant};

use moexperts::{Device, LanguageModel};

use self::row::{Row, Subject};
use super::{
    backends::Backends,
    cached,
    generation::{Asked, Task, Variant, Variants, count},
    limits::Limits,
    table::Report,
};
use crate::{
    args::BenchModelArgs, commands::load, error::CliError, hardware::Hardware, output_file,
};

pub(super) fn run(args: &BenchModelArgs) -> Result<(), CliError> {
    if let Some(path) = &args.common.json {
        output_file::check(path)?;
    }
    let start = Instant::now();
    on_device!(args.load.device.find()?, device => bench(args, device, start))
}

/// - `start`: when loading began
pub(in crate::commands) fn bench<D: Hardware>(
    args: &BenchModelArgs,
    device: D,
    start: Instant,
) -> Result<(), CliError> {
    let backends = Backends::<D>::named(&args.common.experts_implementation)?;
    let model = &load(device, args.load.model.as_deref(), args.load.options())?;
    let load_seconds = start.elapsed().as_secs_f64();
    check_context(args, model)?;
    let (able, mut reasons) =
        backends.able(|backend| model.set_experts_implementation(backend.name()))?;
    let counts = |counts: &[NonZero<usize>]| counts.iter().map(|count| count.get()).collect();
    let Variants { able: variants, broken, lines } = Variants::all(
        model,
        &Asked {
            backends: &able,
            compile: &args.compile,
            limits: &args.limits,
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

    let rows = variants.len() * args.batch.len() * args.prompt_tokens.len();
    let columns = Row::columns(&variants);
    let mut report = Report::new(columns, rows, args.common.json.as_deref());
    let dtype = model.dtype().map_or(String::new(), |dtype| format!(", {dtype}"));
    report.line(&format!("machine   {}", model.device().machine()))?;
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

    let mut limits = Limits::measure(model.device(), None)?;
    for batch in args.batch.iter().map(|batch| batch.get()) {
        for prompt_tokens in args.prompt_tokens.iter().map(|tokens| tokens.get()) {
            report.doing(format!("batch {batch}, {prompt_tokens} prompt tokens"));
            limits.refresh()?;
            let cell = Cell { args, model, variants: &variants, batch, prompt_tokens };
            let (measured, decode_bytes) = cell.measure()?;
            let new_tokens = args.new_tokens;
            let subject =
                Subject { model, load_seconds, batch, prompt_tokens, new_tokens, decode_bytes };
            for measured in &measured {
                let row = Row::new(&subject, measured, limits.bandwidth());
                report.row(&row.cells(), &row)?;
            }
        }
    }
    limits.again()?;
    report.line(&limits.summary(model.origin()))
}

fn check_context<D: Device>(
    args: &BenchModelArgs,
    model: &LanguageModel<D>,
) -> Result<(), CliError> {
    let context = model.spec().max_position_embeddings;
    let prompts = args.prompt_tokens.iter().map(|tokens| tokens.get());
    match prompts.max() {
        Some(prompt) if prompt.saturating_add(args.new_tokens) > context => {
            Err(CliError::BenchContext { prompt, new: args.new_tokens, context })
        }
        _ => Ok(()),
    }
}

/// One cell: a batch of prompts, by each backend in each way to compile in turn.
struct Cell<'a, D: Device> {
    args: &'a BenchModelArgs,
    model: &'a LanguageModel<D>,
    variants: &'a [Variant<D>],
    batch: usize,
    prompt_tokens: usize,
}

/// What one backend took in one way to compile.
#[derive(Debug)]
struct Measured<'a, D: Device> {
    variant: &'a Variant<D>,
    prefill_seconds: Vec<f64>,
    decode_seconds: Vec<f64>,
    peak_memory_bytes: Option<u64>,
}

impl<D: Hardware> Cell<'_, D> {
    /// What each took, and the bytes of weights that decoding read.
    fn measure(&self) -> Result<(Vec<Measured<'_, D>>, f64), CliError> {
        let Self { args, model, variants, batch, prompt_tokens } = *self;
        let task = Task::random(model, batch, prompt_tokens, args.new_tokens, args.seed);
        let Some(first) = variants.first() else { return Ok((Vec::new(), 0.0)) };
        let decode_bytes = count(model, &first.backend, &task, || false)?;
        let decode_bytes = decode_bytes.map_or(0.0, |counted| counted.decode.bytes);
        let measured = |variant| Measured {
            variant,
            prefill_seconds: Vec::new(),
            decode_seconds: Vec::new(),
            peak_memory_bytes: None,
        };
        let mut all: Vec<Measured<'_, D>> = variants.iter().map(measured).collect();
        for measured in &all {
            // What is made on first use is made now.
            measured.variant.choose(model)?;
            task.shortest().finish(model)?;
        }
        for _ in 0..args.repetitions.get() {
            for measured in &mut all {
                measured.variant.choose(model)?;
                measured.generation(model, &task)?;
            }
        }
        Ok((all, decode_bytes))
    }
}

impl<D: Hardware> Measured<'_, D> {
    fn generation(&mut self, model: &LanguageModel<D>, task: &Task) -> Result<(), CliError> {
        let taken = task.finish(model)?;
        self.prefill_seconds.push(taken.prefill.as_secs_f64());
        self.decode_seconds.push(taken.decode.as_secs_f64());
        self.peak_memory_bytes = self.peak_memory_bytes.max(taken.peak_memory_bytes);
        Ok(())
    }
}
