//! `moexperts bench layer`.

mod cell;
mod routing;
mod row;
mod weights;

use moexperts::{DType, Device, Error, ExpertsInterface, ExpertsSpec};

use self::{
    cell::LayerCell,
    routing::Size,
    row::{LayerRow, Subject},
    weights::Weights,
};
use crate::{
    args::{BenchLayerArgs, LayerShape, RoutingKind},
    backends::{Backend, Backends},
    error::BenchError,
    free_memory::FreeMemory,
    hardware::{Hardware, device_name},
    limits::MachineLimits,
    output::{file, table::Report},
};

pub(crate) fn run(args: &BenchLayerArgs) -> Result<(), BenchError> {
    if let Some(path) = &args.common.json {
        file::check(path)?;
    }
    crate::on_device!(args.device.find()?, device => bench(args, &device))
}

fn bench<D: Hardware + Device<Experts = D>>(
    args: &BenchLayerArgs,
    device: &D,
) -> Result<(), BenchError> {
    let backends = Backends::on(device, &args.common.experts_implementation)?;
    let groups: Vec<LayerGroup<'_>> = args
        .shape
        .0
        .iter()
        .flat_map(|shape| args.dtype.iter().map(move |&dtype| LayerGroup { shape, dtype }))
        .collect();
    for LayerGroup { shape, dtype } in &groups {
        // What cannot run should not be found out after an hour.
        able(&backends, &shape.spec(*dtype), device)?;
    }
    let names = backends.names();
    let columns = LayerRow::columns(args.shape.0.iter().map(|shape| shape.name.as_str()), names);
    let rows = groups.len() * args.tokens.len() * names.len();
    let mut report = Report::new(columns, rows, args.common.json.as_deref());
    report.line(&format!("machine   {}", device.machine()))?;
    report.line(&format!("routing   {}, seed {}", described(args.routing), args.seed))?;
    report
        .line("limits    the median of what was measured up to a row, for its shape and dtype")?;
    report.line("")?;
    report.titles()?;
    let bench = LayerBench { args, device, backends: &backends };
    groups.iter().try_for_each(|group| bench.group(group, &mut report))
}

/// A shape in a dtype.
#[derive(Debug)]
struct LayerGroup<'a> {
    shape: &'a LayerShape,
    dtype: DType,
}

struct LayerBench<'a, D> {
    args: &'a BenchLayerArgs,
    device: &'a D,
    backends: &'a Backends,
}

impl<D: Hardware + Device<Experts = D>> LayerBench<'_, D> {
    fn group(&self, group: &LayerGroup<'_>, report: &mut Report) -> Result<(), BenchError> {
        let Self { args, device, backends } = *self;
        let spec = &group.shape.spec(group.dtype);
        let title = format!("{} {}", group.shape.name, group.dtype);
        report.doing(title.clone());
        let (able, reasons) = able(backends, spec, device)?;
        for reason in reasons {
            report.line(&format!("note: {reason}"))?;
            args.tokens.iter().for_each(|_| report.skip());
        }
        let mut limits = MachineLimits::measure(device, Some(group.dtype))?;
        let weights = Weights::random(device, *spec, args.seed, FreeMemory::now(device))?;
        if let Some(note) = &weights.note {
            report.line(&format!("note: {note}"))?;
        }
        for tokens in args.tokens.iter().map(|tokens| tokens.get()) {
            report.doing(format!("{title}, T = {tokens}"));
            limits.refresh()?;
            let LayerShape { name: shape, top_k, .. } = group.shape;
            let cell = LayerCell {
                device,
                sets: &weights.sets,
                backends: &able,
                size: Size { tokens, experts: spec.experts, top_k: *top_k },
                routing: args.routing,
                seed: args.seed,
                time: args.time,
            };
            let (device, threads) = (&device_name(D::NAME), device.threads());
            let subject = Subject { shape, spec, device, threads, tokens };
            for measured in cell.measure()? {
                let row = LayerRow::new(&subject, measured, &limits);
                report.row(&row.cells(), &row)?;
            }
        }
        limits.again()?;
        report.line(&limits.summary(&title))
    }
}

/// The backends that can run these experts, and why the others cannot.
fn able<D: Device<Experts = D>>(
    backends: &Backends,
    spec: &ExpertsSpec,
    device: &D,
) -> Result<(Vec<Backend<D>>, Vec<String>), BenchError> {
    backends.able(|name| {
        let backend = ExpertsInterface::get(name)?;
        backend.check(spec, device)?;
        Ok::<_, Error>(backend)
    })
}

fn described(routing: RoutingKind) -> &'static str {
    match routing {
        RoutingKind::Uniform => "uniform",
        RoutingKind::Zipf => "zipf (expert r is chosen in proportion to 1 / r)",
        RoutingKind::OneExpert => "one expert for all tokens (K = 1)",
    }
}
