//! `moexperts bench vision`.

mod row;

use std::time::Duration;

use moexperts::{Device, Error, Image, LanguageModel, model::VisionSpec, units::counted};

use self::row::{Measured, Row};
use super::{limits::Limits, random::Random, runs::timed, table::Report};
use crate::{
    args::{BenchVisionArgs, ImageSize},
    commands::load,
    error::CliError,
    hardware::Hardware,
    output_file,
};

pub(super) fn run(args: &BenchVisionArgs) -> Result<(), CliError> {
    if let Some(path) = &args.json {
        output_file::check(path)?;
    }
    on_device!(args.load.device.find()?, device => bench(args, device))
}

pub(in crate::commands) fn bench<D: Hardware>(
    args: &BenchVisionArgs,
    device: D,
) -> Result<(), CliError> {
    let model = &load(device, args.load.model.as_deref(), args.load.options())?;
    let tower = model.require_vision()?;
    let columns = Row::columns(&args.image_size);
    let mut report = Report::new(columns, args.image_size.len(), args.json.as_deref());
    report.line(&format!("machine   {}", model.device().machine()))?;
    report.line(&format!("model     {}", model.origin()))?;
    report.line(&format!("tower     {}, {}", described(tower.spec()), tower.dtype()))?;
    report.line("limits    the median of what was measured up to a row")?;
    report.line("")?;
    report.titles()?;

    let mut limits = Limits::measure(model.device(), Some(tower.dtype()))?;
    for &size in &args.image_size {
        report.doing(size.to_string());
        limits.refresh()?;
        let measured = measure(model, &noise(size, args.seed)?, args.time)?;
        let row = Row::new(model, tower, size, &measured, limits.peak());
        report.row(&row.cells(), &row)?;
    }
    limits.again()?;
    report.line(&limits.summary(model.origin()))
}

/// `27 layers of 1152, 3 deepstack mergers`.
fn described(spec: &VisionSpec) -> String {
    let layers = counted(spec.depth, "layer");
    let mergers = counted(spec.deepstack_visual_indexes.len(), "deepstack merger");
    format!("{layers} of {}, {mergers}", spec.hidden_size)
}

/// An image of random pixels.
fn noise(ImageSize { width, height }: ImageSize, seed: u64) -> Result<Image, CliError> {
    let mut random = Random::new(seed, &[width as u64, height as u64]);
    let rgb = (0..3 * width * height).map(|_| random.below(256) as u8).collect();
    Ok(Image::from_rgb8(width, height, rgb)?)
}

fn measure<D: Device>(
    model: &LanguageModel<D>,
    image: &Image,
    time: Duration,
) -> Result<Measured, CliError> {
    let tower = model.require_vision()?;
    let visual = model.prepare_image(image)?;
    let features = || {
        tower.features(visual.pixels())?;
        Ok::<_, Error>(model.device().synchronize()?)
    };
    Ok(Measured {
        grid: visual.pixels().grid_thw(),
        prepare_seconds: timed(|| model.prepare_image(image), time)?,
        seconds: timed(features, time)?,
    })
}
