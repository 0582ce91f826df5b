//! JSON as Python reads it.

use serde_json::Value;

/// What Python writes for numbers that JSON does not have.
const CONSTANTS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Reads JSON in which the constants of Python may stand; they become strings of the same letters.
///
/// # Errors
/// Those of `serde_json`, with line and column.
pub(crate) fn parse(text: &str) -> Result<Value, serde_json::Error> {
    match serde_json::from_str(text) {
        Err(_) if CONSTANTS.iter().any(|constant| text.contains(constant)) => {
            serde_json::from_str(&quoted(text))
        }
        other => other,
    }
}

/// The text of a file of a model.
///
/// # Errors
/// What it is instead of UTF-8, in words. A byte-order mark is refused, as Python refuses it.
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

/// The text with quotes around the constants.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let (mut rest, mut in_string) = (text, false);
    while let Some(next) = rest.chars().next() {
        let constant = CONSTANTS.iter().find(|&&constant| rest.starts_with(constant));
        let taken = match (in_string, next, constant) {
            (true, '\\', _) => rest.chars().take(2).map(char::len_utf8).sum(),
            (false, _, Some(constant)) => {
                out.extend(["\"", constant, "\""]);
                rest = &rest[constant.len()..];
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
        for text in ["{\"a\": Infinity", "[Infinity 1]", "[NaNo]", "{\"a\": \"Infinity\\", ""] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
