//! A row: what one backend did with one number of tokens.

use moexperts::ExpertsSpec;
use moexperts_report::Statistics;
use serde::Serialize;

use super::cell::Measured;
use crate::{
    limits::MachineLimits,
    output::{
        table::Column,
        text::{digits, percent, rounded},
    },
};

/// As the JSON file has it.
#[derive(Debug, Serialize)]
pub(crate) struct LayerRow {
    shape: String,
    dtype: &'static str,
    device: String,
    /// None of a GPU.
    threads: Option<usize>,
    tokens: usize,
    experts_hit: f64,
    implementation: String,
    /// Nothing is compiled here; results of other systems in the same form say `default` and so on.
    compile: &'static str,
    median_ms: f64,
    p10_ms: f64,
    p90_ms: f64,
    gb_per_s: f64,
    gflop_per_s: f64,
    limit_gb_per_s: f64,
    limit_gflop_per_s: f64,
    fraction_of_limit: f64,
}

/// What a row is about, beside the measurement.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) shape: &'a str,
    pub(crate) spec: &'a ExpertsSpec,
    pub(crate) device: &'a str,
    pub(crate) threads: Option<usize>,
    pub(crate) tokens: usize,
}

impl LayerRow {
    pub(crate) fn new(subject: &Subject<'_>, measured: Measured, limits: &MachineLimits) -> Self {
        let Subject { shape, spec, device, threads, tokens } = *subject;
        let Measured { name, seconds, experts_hit, pairs } = measured;
        let time = Statistics::of(&seconds);
        let bytes = experts_hit * spec.bytes_per_expert() as f64;
        // A multiplication and an addition a weight.
        let flops = 2.0 * (pairs * spec.weights_per_expert()) as f64;
        let (bandwidth, peak) = (limits.bandwidth(), limits.peak());
        let least_seconds = (bytes / bandwidth).max(flops / peak);
        let ms = time.scaled(1e3);
        Self {
            shape: shape.to_owned(),
            dtype: spec.format.name(),
            device: device.to_owned(),
            threads,
            tokens,
            experts_hit: rounded(experts_hit),
            implementation: name,
            compile: "none",
            median_ms: rounded(ms.median),
            p10_ms: rounded(ms.p10),
            p90_ms: rounded(ms.p90),
            gb_per_s: rounded(bytes / time.median / 1e9),
            gflop_per_s: rounded(flops / time.median / 1e9),
            limit_gb_per_s: rounded(bandwidth / 1e9),
            limit_gflop_per_s: rounded(peak / 1e9),
            fraction_of_limit: rounded(least_seconds / time.median),
        }
    }

    /// The columns of the table, for these names of shapes and backends.
    pub(crate) fn columns<'a>(
        shapes: impl IntoIterator<Item = &'a str>,
        backends: &[String],
    ) -> Vec<Column> {
        vec![
            Column::words("shape", shapes),
            Column::words("dtype", [""]),
            Column::number("T", 5),
            Column::number("experts hit", 0),
            Column::words("implementation", backends),
            Column::number("ms", 6),
            Column::number("p10-p90", 13),
            Column::number("GB/s", 6),
            Column::number("GFLOP/s", 0),
            Column::number("of limit", 0),
        ]
    }

    /// The texts of those columns.
    pub(crate) fn cells(&self) -> Vec<String> {
        vec![
            self.shape.clone(),
            self.dtype.to_owned(),
            self.tokens.to_string(),
            format!("{:.1}", self.experts_hit),
            self.implementation.clone(),
            digits(self.median_ms),
            format!("{}-{}", digits(self.p10_ms), digits(self.p90_ms)),
            digits(self.gb_per_s),
            digits(self.gflop_per_s),
            percent(self.fraction_of_limit),
        ]
    }
}
