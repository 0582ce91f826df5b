//! Numbers with their units, as people read them.

use std::fmt;

/// Bytes with three digits: `28.6 GB`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bytes(pub f64);

/// Floating point operations with three digits: `1.20 GFLOP`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flops(pub f64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&with_prefix(self.0, "B"))
    }
}

impl fmt::Display for Flops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&with_prefix(self.0, "FLOP"))
    }
}

/// A number of things: `1 thread`, `2 threads`.
///
/// - `noun`: one of them; an `s` makes it several
pub fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn with_prefix(count: f64, unit: &str) -> String {
    if count < 999.5 {
        return format!("{count:.0} {unit}");
    }
    let (mut value, mut prefix) = (count, "");
    for larger in ["k", "M", "G", "T"] {
        if value < 999.5 {
            break;
        }
        (value, prefix) = (value / 1e3, larger);
    }
    let decimals = match value {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {prefix}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_things_have_an_s() {
        assert_eq!(counted(0, "thread"), "0 threads");
        assert_eq!(counted(1, "thread"), "1 thread");
    }

    #[test]
    fn three_digits_and_a_unit() {
        let cases = [
            (0.0, "0 B"),
            (99_960.0, "100 kB"),
            (999_499.0, "999 kB"),
            (999_500.0, "1.00 MB"),
            (28_640_000_000.0, "28.6 GB"),
        ];
        for (count, text) in cases {
            assert_eq!(Bytes(count).to_string(), text);
        }
        assert_eq!(Flops(1.2e9).to_string(), "1.20 GFLOP");
    }
}
