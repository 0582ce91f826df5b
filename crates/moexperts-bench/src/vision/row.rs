//! A row: one image through the tower.

use moexperts::{DType, LanguageModel, blocks::VisionSpec};
use moexperts_report::Statistics;
use serde::Serialize;

use crate::{
    args::{Compiling, ImageSize},
    hardware::{Hardware as _, device_name, device_of},
    output::{
        table::Column,
        text::{digits, percent, rounded},
    },
};

/// As the JSON file has it.
#[derive(Debug, Serialize)]
pub(crate) struct VisionRow {
    model: String,
    dtype: &'static str,
    device: String,
    /// None of a GPU.
    threads: Option<usize>,
    image: String,
    patches: usize,
    implementation: &'static str,
    /// `none`, or a mode.
    compile: String,
    prepare_ms: f64,
    median_ms: f64,
    p10_ms: f64,
    p90_ms: f64,
    gflop_per_s: f64,
    limit_gflop_per_s: f64,
    fraction_of_limit: f64,
}

/// What one image took, in one way to compile.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) compile: Compiling,
    /// Patches in time, height and width.
    pub(crate) grid: [usize; 3],
    /// From the image to patches.
    pub(crate) prepare_seconds: Vec<f64>,
    /// From patches to rows of the decoder.
    pub(crate) seconds: Vec<f64>,
}

/// What a row is about, beside the measurement.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) model: &'a LanguageModel,
    pub(crate) tower: &'a VisionSpec,
    /// Of the tower's weights.
    pub(crate) dtype: DType,
    pub(crate) size: ImageSize,
}

impl VisionRow {
    /// - `peak`: multiplications and additions the machine does a second
    pub(crate) fn new(subject: &Subject<'_>, measured: &Measured, peak: f64) -> Self {
        let Subject { model, tower, dtype, size } = *subject;
        let time = Statistics::of(&measured.seconds);
        let flops_per_second = tower.flops(measured.grid) as f64 / time.median;
        let ms = time.scaled(1e3);
        Self {
            model: model.origin().to_owned(),
            dtype: dtype.name(),
            device: device_name(model.device_name()),
            threads: device_of(model).threads(),
            image: size.to_string(),
            patches: measured.grid.iter().product(),
            implementation: "moexperts",
            compile: measured.compile.to_string(),
            prepare_ms: rounded(1e3 * Statistics::of(&measured.prepare_seconds).median),
            median_ms: rounded(ms.median),
            p10_ms: rounded(ms.p10),
            p90_ms: rounded(ms.p90),
            gflop_per_s: rounded(flops_per_second / 1e9),
            limit_gflop_per_s: rounded(peak / 1e9),
            fraction_of_limit: rounded(flops_per_second / peak),
        }
    }

    /// The columns of the table, for images of these sizes and these ways to compile.
    pub(crate) fn columns(sizes: &[ImageSize], ways: &[Compiling]) -> Vec<Column> {
        vec![
            Column::words("image", sizes.iter().map(ToString::to_string)),
            Column::words("compile", ways.iter().map(ToString::to_string)),
            Column::number("patches", 0),
            Column::number("prepare ms", 0),
            Column::number("ms", 6),
            Column::number("p10-p90", 13),
            Column::number("GFLOP/s", 0),
            Column::number("of limit", 0),
        ]
    }

    /// The texts of those columns.
    pub(crate) fn cells(&self) -> Vec<String> {
        vec![
            self.image.clone(),
            self.compile.clone(),
            self.patches.to_string(),
            digits(self.prepare_ms),
            digits(self.median_ms),
            format!("{}-{}", digits(self.p10_ms), digits(self.p90_ms)),
            digits(self.gflop_per_s),
            percent(self.fraction_of_limit),
        ]
    }
}
