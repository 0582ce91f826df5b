//! Numbers and foreign text as lines of a terminal and files have them.

use moexperts::units::Bytes;

/// A number of bytes in the unit that suits it, with three digits.
pub fn bytes(count: u64) -> String {
    Bytes(count as f64).to_string()
}

/// Foreign text without the characters that move a terminal's cursor.
pub fn printable(text: &str) -> String {
    text.chars().filter(|&c| c == '\n' || !c.is_control()).collect()
}

/// Below this the report says that caches may hold a part of the weights.
const CACHED_BYTES: usize = 1 << 29;

/// What a reader of the results has to know if the weights are few.
pub(crate) fn cached(weights_bytes: usize) -> Option<String> {
    let all = bytes(weights_bytes as u64);
    let note = || format!("all weights are {all}: caches may hold a part of them");
    (weights_bytes < CACHED_BYTES).then(note)
}

/// As files have numbers: six digits, which is more than any measurement is good for.
pub(crate) fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().expect("a number was written")
}

/// A number with three digits.
pub(crate) fn digits(value: f64) -> String {
    let decimals = match value {
        ..0.9995 => 3,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

/// `63 %`.
pub(crate) fn percent(fraction: f64) -> String {
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
