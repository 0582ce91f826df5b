//! `moexperts bench layer`.

mod cell;
mod routing;
mod row;
mod weights;

use moexperts::{Cpu, CpuOptions, DType, Error, ExpertsSpec};

use self::{
    cell::Cell,
    routing::Size,
    row::{Row, Subject},
    weights::Weights,
};
use super::{
    backends::{Backend, Backends},
    limits::Limits,
    machine,
    report::Report,
};
use crate::{
    args::{BenchLayerArgs, RoutingKind, Shape},
    error::CliError,
    machine::Memory,
    output_file,
};

pub(super) fn run(args: &BenchLayerArgs) -> Result<(), CliError> {
    if let Some(path) = &args.common.json {
        output_file::check(path)?;
    }
    let backends = Backends::named(&args.common.experts_implementation)?;
    let cpu = Cpu::new(CpuOptions { threads: args.threads, isa: None }).map_err(Error::from)?;
    let groups: Vec<Group<'_>> = args
        .shape
        .0
        .iter()
        .flat_map(|shape| args.dtype.iter().map(move |&dtype| Group { shape, dtype }))
        .collect();
    for Group { shape, dtype } in &groups {
        // What cannot run should not be found out after an hour.
        able(&backends, &shape.spec(*dtype), &cpu)?;
    }
    let names = backends.names();
    let columns = Row::columns(args.shape.0.iter().map(|shape| shape.name.as_str()), &names);
    let rows = groups.len() * args.tokens.len() * names.len();
    let mut report = Report::new(columns, rows, args.common.json.as_deref());
    report.line(&machine(&cpu))?;
    report.line(&format!("routing   {}, seed {}", described(args.routing), args.seed))?;
    report
        .line("limits    the median of what was measured up to a row, for its shape and dtype")?;
    report.line("")?;
    report.titles()?;
    let bench = Bench { args, cpu: &cpu, backends: &backends };
    groups.iter().try_for_each(|group| bench.group(group, &mut report))
}

/// A shape in a dtype.
#[derive(Debug)]
struct Group<'a> {
    shape: &'a Shape,
    dtype: DType,
}

struct Bench<'a> {
    args: &'a BenchLayerArgs,
    cpu: &'a Cpu,
    backends: &'a Backends,
}

impl Bench<'_> {
    fn group(&self, group: &Group<'_>, report: &mut Report) -> Result<(), CliError> {
        let Self { args, cpu, backends } = *self;
        let spec = &group.shape.spec(group.dtype);
        let title = format!("{} {}", group.shape.name, group.dtype);
        report.doing(title.clone());
        let (able, reasons) = able(backends, spec, cpu)?;
        for reason in reasons {
            report.line(&format!("note: {reason}"))?;
            args.tokens.iter().for_each(|_| report.skip());
        }
        let mut limits = Limits::measure(cpu, Some(group.dtype));
        let available = Memory::now().map(|memory| memory.available);
        let weights = Weights::random(cpu, *spec, args.seed, available)?;
        if let Some(note) = &weights.note {
            report.line(&format!("note: {note}"))?;
        }
        for tokens in args.tokens.iter().map(|tokens| tokens.get()) {
            report.doing(format!("{title}, T = {tokens}"));
            limits.refresh();
            let Shape { name: shape, top_k, .. } = group.shape;
            let cell = Cell {
                cpu,
                sets: &weights.sets,
                backends: &able,
                size: Size { tokens, experts: spec.experts, top_k: *top_k },
                routing: args.routing,
                seed: args.seed,
                time: args.time,
            };
            let subject = Subject { shape, spec, threads: cpu.thread_count(), tokens };
            for measured in cell.measure()? {
                let row = Row::new(&subject, measured, &limits);
                report.row(&row.cells(), &row)?;
            }
        }
        limits.again();
        report.line(&limits.summary(&title))
    }
}

/// The backends that can run these experts, and why the others cannot.
fn able(
    backends: &Backends,
    spec: &ExpertsSpec,
    cpu: &Cpu,
) -> Result<(Vec<Backend>, Vec<String>), CliError> {
    backends.able(|backend| backend.check(spec, cpu).map_err(Error::from))
}

fn described(routing: RoutingKind) -> &'static str {
    match routing {
        RoutingKind::Uniform => "uniform",
        RoutingKind::Zipf => "zipf (expert r is chosen in proportion to 1 / r)",
        RoutingKind::OneExpert => "one expert for all tokens (K = 1)",
    }
}
