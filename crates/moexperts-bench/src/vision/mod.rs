//! `moexperts bench vision`.

mod row;

use std::time::{Duration, Instant};

use moexperts::{
    AnyDevice, CompiledPlans, DType, Error, Image, LanguageModel, blocks::VisionSpec,
    units::counted,
};

use self::row::{Measured, Subject, VisionRow};
use crate::{
    args::{BenchVisionArgs, Compiling, ImageSize},
    error::BenchError,
    hardware::{Hardware as _, device_of},
    limits::MachineLimits,
    load::{DefaultModel, load},
    output::{file, table::Report},
    random::Random,
    runs::{enough, timed},
};

pub(crate) fn run(args: &BenchVisionArgs, default: DefaultModel) -> Result<(), BenchError> {
    if let Some(path) = &args.json {
        file::check(path)?;
    }
    bench(args, args.load.device.find()?, default)
}

pub(crate) fn bench(
    args: &BenchVisionArgs,
    device: AnyDevice,
    default: DefaultModel,
) -> Result<(), BenchError> {
    let model = &load(device, args.load.source.model.as_deref(), args.load.options(), default)?;
    let (tower, dtype) = tower(model)?;
    let device = &device_of(model);
    let ways = ways(args, model)?;
    let names: Vec<Compiling> = ways.iter().map(|(compile, _)| *compile).collect();
    let columns = VisionRow::columns(&args.image_size, &names);
    let rows = args.image_size.len() * ways.len();
    let mut report = Report::new(columns, rows, args.json.as_deref());
    report.line(&format!("machine   {}", device.machine()))?;
    report.line(&format!("model     {}", model.origin()))?;
    report.line(&format!("tower     {}, {dtype}", described(tower)))?;
    report.line("limits    the median of what was measured up to a row")?;
    report.line("")?;
    report.titles()?;

    let mut limits = MachineLimits::measure(device, Some(dtype))?;
    for &size in &args.image_size {
        report.doing(size.to_string());
        limits.refresh()?;
        for measured in measure(model, &ways, &noise(size, args.seed)?, args.time)? {
            let subject = Subject { model, tower, dtype, size };
            let row = VisionRow::new(&subject, &measured, limits.peak());
            report.row(&row.cells(), &row)?;
        }
    }
    limits.again()?;
    report.line(&limits.summary(model.origin()))
}

/// The vision tower and the element type of its weights.
fn tower(model: &LanguageModel) -> Result<(&VisionSpec, DType), Error> {
    let spec = model.require_vision()?;
    Ok((spec, model.vision_dtype().expect("a model with a vision tower has its weights")))
}

/// `27 layers of 1152, 3 deepstack mergers`.
fn described(spec: &VisionSpec) -> String {
    let layers = counted(spec.depth, "layer");
    let mergers = counted(spec.deepstack_visual_indexes.len(), "deepstack merger");
    format!("{layers} of {}, {mergers}", spec.hidden_size)
}

/// An image of random pixels.
fn noise(ImageSize { width, height }: ImageSize, seed: u64) -> Result<Image, BenchError> {
    let mut random = Random::new(seed, &[width as u64, height as u64]);
    let rgb = (0..3 * width * height).map(|_| random.below(256) as u8).collect();
    Ok(Image::from_rgb8(width, height, rgb)?)
}

/// A way to compile, and what compiling made.
type Way = (Compiling, Option<CompiledPlans>);

/// The ways to compile that take part.
fn ways(args: &BenchVisionArgs, model: &LanguageModel) -> Result<Vec<Way>, BenchError> {
    let way = |compile: Compiling| {
        let Compiling::Mode(mode) = compile else { return Ok((compile, None)) };
        // Plans of the tower are made at its first picture of a size.
        model.compile(args.compile.limits.options(mode, Vec::new(), Vec::new()))?;
        Ok((compile, model.compiled()))
    };
    args.compile.ways().into_iter().map(way).collect()
}

/// One image, in each way to compile in turn.
fn measure(
    model: &LanguageModel,
    ways: &[Way],
    image: &Image,
    time: Duration,
) -> Result<Vec<Measured>, BenchError> {
    let visual = model.prepare_image(image)?;
    let prepare_seconds = timed(|| model.prepare_image(image), time)?;
    let measured = |(compile, _): &Way| Measured {
        compile: *compile,
        grid: visual.pixels().grid_thw(),
        prepare_seconds: prepare_seconds.clone(),
        seconds: Vec::new(),
    };
    let mut all: Vec<Measured> = ways.iter().map(measured).collect();
    // What is made at the first run is made now.
    for (_, plans) in ways {
        model.set_compiled(plans.clone())?;
        model.read_picture(&visual)?;
    }
    while !all.iter().all(|measured| enough(&measured.seconds, time)) {
        for ((_, plans), measured) in ways.iter().zip(&mut all) {
            model.set_compiled(plans.clone())?;
            let start = Instant::now();
            model.read_picture(&visual)?;
            measured.seconds.push(start.elapsed().as_secs_f64());
        }
    }
    Ok(all)
}
