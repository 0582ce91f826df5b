//! `moexperts bench`: how fast the experts backends are, on a layer or in a model, and how fast a
//! vision tower is, set against what the machine can do at most; and reports of it.

mod backends;
mod generation;
mod layer;
mod limits;
pub(super) mod model;
mod pool;
mod random;
mod random_model;
mod report;
mod room;
mod runs;
pub(super) mod sweep;
mod table;
mod vision;

use std::ffi::OsString;

use moexperts::Device;

use crate::{args::BenchCommand, error::CliError, summary::bytes};

pub(super) fn run(command: &BenchCommand, words: &[OsString]) -> Result<(), CliError> {
    match command {
        BenchCommand::Layer(args) => layer::run(args),
        BenchCommand::Model(args) => model::run(args),
        BenchCommand::Vision(args) => vision::run(args),
        BenchCommand::Sweep(args) => sweep::run(args, words),
        BenchCommand::Report(args) => report::run(args),
    }
}

/// A device as files of results have it: `cpu`.
fn device_name<D: Device>() -> String {
    D::NAME.to_lowercase()
}

/// Below this the report says that caches may hold a part of the weights.
const CACHED_BYTES: usize = 1 << 29;

/// What a reader of the results has to know if the weights are few.
fn cached(weights_bytes: usize) -> Option<String> {
    let all = bytes(weights_bytes as u64);
    let note = || format!("all weights are {all}: caches may hold a part of them");
    (weights_bytes < CACHED_BYTES).then(note)
}

/// As files have numbers: six digits, which is more than any measurement is good for.
fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().expect("a number was written")
}

/// A number with three digits.
fn digits(value: f64) -> String {
    let decimals = match value {
        ..0.9995 => 3,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

/// `63 %`.
fn percent(fraction: f64) -> String {
    format!("{:.0} %", 100.0 * fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_whatever_the_size() {
        for (value, text) in [
            (0.01234, "0.012"),
            (1.234, "1.23"),
            (9.996, "10.0"),
            (12.34, "12.3"),
            (1234.5, "1234"),
        ] {
            assert_eq!(digits(value), text);
        }
        assert_eq!(percent(0.626), "63 %");
        assert_eq!(rounded(1234.56789), 1234.57);
        assert_eq!(rounded(0.0), 0.0);
    }
}
