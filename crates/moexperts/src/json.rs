//! JSON as Python reads it.

use serde_json::Value;

/// What Python writes for numbers that JSON does not have.
const CONSTANTS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Reads JSON as Python does. What a [`Value`] cannot hold is replaced: `NaN` and the infinities, and
/// numbers beyond the range of f64, become strings of Python's constants; halves of surrogate pairs
/// become U+FFFD. Of equal keys the last counts.
///
/// # Errors
/// Those of `serde_json`, with line and column.
pub(crate) fn parse(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text).or_else(|error| {
        let rewritten = rewritten(text);
        // Positions within the text that the reader sees.
        if rewritten == text { Err(error) } else { serde_json::from_str(&rewritten) }
    })
}

/// The text of a file of a model.
///
/// # Errors
/// The encoding in words, if not UTF-8. A byte-order mark is refused, as Python refuses it.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, String> {
    let way_out = "expected UTF-8 without a byte-order mark: save it so";
    match bytes {
        [0xEF, 0xBB, 0xBF, ..] => Err(format!("starts with a byte-order mark, {way_out}")),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Err(format!("is UTF-16, {way_out}")),
        [0, first, 0, second, ..] | [first, 0, second, 0, ..] if *first != 0 && *second != 0 => {
            Err(format!("is UTF-16, {way_out}"))
        }
        _ => str::from_utf8(bytes).map_err(|error| {
            format!("is not UTF-8 from byte {} on, {way_out}", error.valid_up_to())
        }),
    }
}

/// The text with what only Python reads in words of JSON.
fn rewritten(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let (mut rest, mut in_string) = (text, false);
    while let Some(next) = rest.chars().next() {
        let constant = CONSTANTS.iter().find(|&&constant| rest.starts_with(constant));
        let taken = match (in_string, next, constant) {
            (true, '\\', _) => {
                let (replaced, taken) = escape(rest);
                out.push_str(replaced);
                rest = &rest[taken..];
                continue;
            }
            (false, _, Some(constant)) => {
                out.extend(["\"", constant, "\""]);
                rest = &rest[constant.len()..];
                continue;
            }
            (false, '-' | '0'..='9', _) => {
                let end =
                    rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'));
                let (number, after) = rest.split_at(end.unwrap_or(rest.len()));
                out.push_str(beyond_range(number).unwrap_or(number));
                rest = after;
                continue;
            }
            (_, '"', _) => {
                in_string = !in_string;
                1
            }
            _ => next.len_utf8(),
        };
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

/// The constant for a number that f64 cannot hold.
fn beyond_range(number: &str) -> Option<&'static str> {
    serde_json::from_str::<Value>(number).err()?;
    match number.parse::<f64>() {
        Ok(f64::INFINITY) => Some("\"Infinity\""),
        Ok(f64::NEG_INFINITY) => Some("\"-Infinity\""),
        _ => None,
    }
}

/// What to write for the escape that the text begins with, and its length.
fn escape(text: &str) -> (&str, usize) {
    let unit = |text: &str| -> Option<u16> {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(())?;
        u16::from_str_radix(digits, 16).ok()
    };
    match unit(text) {
        Some(0xD800..=0xDBFF) => match unit(&text[6..]) {
            Some(0xDC00..=0xDFFF) => (&text[..12], 12),
            _ => ("\\ufffd", 6),
        },
        Some(0xDC00..=0xDFFF) => ("\\ufffd", 6),
        _ => {
            let taken = text.chars().take(2).map(char::len_utf8).sum();
            (&text[..taken], taken)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_constants_of_python_are_read_outside_strings() {
        let text = r#"{"limits": [0.0, Infinity, -Infinity], "x": NaN, "s": "NaN \" Infinity"}"#;
        assert_eq!(
            parse(text).unwrap(),
            json!({"limits": [0.0, "Infinity", "-Infinity"], "x": "NaN", "s": "NaN \" Infinity"})
        );
    }

    #[test]
    fn broken_json_is_refused() {
        for text in [
            "{\"a\": Infinity",
            "[Infinity 1]",
            "[NaNo]",
            "[1e400x]",
            "-",
            "[--1]",
            r#""\ud80""#,
            "{\"a\": \"Infinity\\",
            "",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_python_reads_is_read() {
        for (text, expected) in [
            ("[1e400, -1e400]", json!(["Infinity", "-Infinity"])),
            ("[1e-400, -0]", json!([0.0, -0.0])),
            ("123456789012345678901234567890", json!(123_456_789_012_345_678_901_234_567_890_f64)),
            (r#"{"a": 1, "b": 2, "a": 3}"#, json!({"a": 3, "b": 2})),
            (r#""\ud800""#, json!("\u{fffd}")),
            (
                r#"["\udc00x", "\ud83d\ude00", "\\ud800", "\ud800\ud83d\ude00", NaN]"#,
                json!(["\u{fffd}x", "😀", "\\ud800", "\u{fffd}😀", "NaN"]),
            ),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_utf8_is_named() {
        for (bytes, problem) in [
            (b"\xEF\xBB\xBF{}".as_slice(), "starts with a byte-order mark"),
            (b"\xFF\xFE{\0}\0", "is UTF-16"),
            (b"\xFE\xFF\0{\0}", "is UTF-16"),
            (b"{\0}\0", "is UTF-16"),
            (b"\0{\0}", "is UTF-16"),
            (b"{\"a\": \"\xE9\"}", "is not UTF-8 from byte 7 on"),
        ] {
            let refused = text(bytes).unwrap_err();
            assert!(
                refused.starts_with(problem) && refused.contains("expected UTF-8"),
                "{refused}"
            );
        }
        assert_eq!(text("{\"é\": 1}".as_bytes()).unwrap(), "{\"é\": 1}");
    }
}
