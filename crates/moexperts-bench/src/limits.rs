//! What the machine can do at most while a group of rows is measured.
//!
//! It is measured before the group, again between its rows, and after it: a machine that others
//! use too changes by the minute. A row is set against the median of all that is known when it is
//! shown.

use std::time::{Duration, Instant};

use moexperts::{DType, Error, units::counted};
use moexperts_report::Statistics;

use crate::{
    error::BenchError,
    hardware::{Hardware, Meter},
    output::text::digits,
};

/// How long a measurement is good for.
const EVERY: Duration = Duration::from_secs(5);

/// What was measured in a group so far.
pub(crate) struct MachineLimits {
    meter: Box<dyn Meter>,
    bytes_per_second: Vec<f64>,
    flops_per_second: Vec<f64>,
    /// What the operations were done with.
    units: String,
    last: Instant,
}

impl MachineLimits {
    /// Measures for the first time.
    ///
    /// - `dtype`: that of the weights whose operations are counted, if they are
    pub(crate) fn measure(device: &dyn Hardware, dtype: Option<DType>) -> Result<Self, BenchError> {
        let mut limits = Self {
            meter: device.meter(dtype).map_err(Error::from)?,
            bytes_per_second: Vec::new(),
            flops_per_second: Vec::new(),
            units: String::new(),
            last: Instant::now(),
        };
        limits.again()?;
        Ok(limits)
    }

    pub(crate) fn again(&mut self) -> Result<(), BenchError> {
        let bandwidth = self.meter.bandwidth().map_err(Error::from)?;
        self.bytes_per_second.push(bandwidth.bytes_per_second);
        if let Some(peak) = self.meter.peak().map_err(Error::from)? {
            self.flops_per_second.push(peak.flops_per_second);
            self.units = peak.of;
        }
        self.last = Instant::now();
        Ok(())
    }

    /// Measures again if the last measurement is old.
    pub(crate) fn refresh(&mut self) -> Result<(), BenchError> {
        if self.last.elapsed() >= EVERY { self.again() } else { Ok(()) }
    }

    /// Every measurement of bytes read a second and of operations a second, and what those were
    /// done with.
    pub(crate) fn measured(&self) -> (&[f64], &[f64], &str) {
        (&self.bytes_per_second, &self.flops_per_second, &self.units)
    }

    /// Bytes read a second.
    pub(crate) fn bandwidth(&self) -> f64 {
        Statistics::of(&self.bytes_per_second).median
    }

    /// Multiplications and additions a second; without a dtype there is no such limit.
    pub(crate) fn peak(&self) -> f64 {
        match self.flops_per_second.as_slice() {
            [] => f64::INFINITY,
            measured => Statistics::of(measured).median,
        }
    }

    /// `limits of olmoe bf16: 29.1 GB/s (27.8-30.2), 198 GFLOP/s (…) of f32 on avx2, 5 measurements`.
    pub(crate) fn summary(&self, of: &str) -> String {
        let spread = |measured: &[f64]| {
            let Statistics { median, p10, p90, .. } = Statistics::of(measured).scaled(1e-9);
            [digits(median), digits(p10), digits(p90)]
        };
        let [median, p10, p90] = spread(&self.bytes_per_second);
        let mut text = format!("limits of {of}: {median} GB/s ({p10}-{p90})");
        if !self.flops_per_second.is_empty() {
            let [median, p10, p90] = spread(&self.flops_per_second);
            text += &format!(", {median} GFLOP/s ({p10}-{p90}) of {}", self.units);
        }
        format!("{text}, {}", counted(self.bytes_per_second.len(), "measurement"))
    }
}
