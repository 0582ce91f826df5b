//! From the rows of the programs to the figures of a table.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::programs::OURS;

/// What the rows of an implementation say that is not compiled.
const NOT_COMPILED: &str = "none";

/// What a figure says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quantity {
    Time,
    Prefill,
    Decode,
    Load,
    PeakMemory,
}

impl Quantity {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Time => "ms",
            Self::Prefill => "prefill, tok/s",
            Self::Decode => "decode, tok/s",
            Self::Load => "load, s",
            Self::PeakMemory => "peak memory, MB",
        }
    }

    /// How many times better the first value is than the second.
    pub(super) fn ratio(self, ours: f64, peer: f64) -> f64 {
        match self {
            Self::Prefill | Self::Decode => ours / peer,
            Self::Time | Self::Load | Self::PeakMemory => peer / ours,
        }
    }
}

/// One figure of one run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) table: String,
    pub(super) quantity: Quantity,
    /// T, the tokens of a layer's call or of a prompt, or the patches of an image.
    pub(super) tokens: u64,
    pub(super) column: String,
    pub(super) value: f64,
    /// The part of the machine's measured limit that this reaches.
    pub(super) of_limit: Option<f64>,
}

/// Something that was not measured.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Absence {
    pub(super) column: String,
    /// Everywhere, if there is none.
    pub(super) table: Option<String>,
    /// At every T, if there is none.
    pub(super) tokens: Option<u64>,
    pub(super) reason: String,
}

/// What is read of a row; a layer, a model and a vision tower fill different fields.
#[derive(Debug, Deserialize)]
struct Row {
    implementation: String,
    compile: String,
    dtype: Option<String>,
    tokens: Option<u64>,
    prompt_tokens: Option<u64>,
    patches: Option<u64>,
    median_ms: Option<f64>,
    prefill_tok_per_s: Option<f64>,
    decode_tok_per_s: Option<f64>,
    load_s: Option<f64>,
    peak_memory_bytes: Option<f64>,
    fraction_of_limit: Option<f64>,
    decode_gb_per_s: Option<f64>,
    limit_gb_per_s: Option<f64>,
    skipped: Option<String>,
}

/// The figures of one row of a program, or the reason why it has none.
pub(super) fn read(
    program: &str,
    table: &str,
    row: &Value,
) -> Result<Result<Vec<Sample>, Absence>> {
    let row = Row::deserialize(row).with_context(|| format!("a row of {program}: {row}"))?;
    let column = column(program, &row);
    let tokens = row.tokens.or(row.prompt_tokens).or(row.patches);
    let tokens = tokens.with_context(|| format!("a row of {program} has no number of tokens"))?;
    if let Some(reason) = row.skipped {
        let table = Some(table.to_owned());
        return Ok(Err(Absence { column, table, tokens: Some(tokens), reason }));
    }
    let decode_of_limit = row.decode_gb_per_s.zip(row.limit_gb_per_s).map(|(did, can)| did / can);
    let figures = [
        (Quantity::Time, row.median_ms, row.fraction_of_limit),
        (Quantity::Prefill, row.prefill_tok_per_s, None),
        (Quantity::Decode, row.decode_tok_per_s, decode_of_limit),
        (Quantity::Load, row.load_s, None),
        (Quantity::PeakMemory, row.peak_memory_bytes.map(|bytes| bytes / 1e6), None),
    ];
    let samples = figures.into_iter().filter_map(|(quantity, value, of_limit)| {
        Some(Sample {
            table: table.to_owned(),
            quantity,
            tokens,
            column: column.clone(),
            value: value?,
            of_limit,
        })
    });
    Ok(Ok(samples.collect()))
}

/// `program/implementation`, how it was compiled, and the dtype where programs may differ in it.
fn column(program: &str, row: &Row) -> String {
    let mut column = row.implementation.clone();
    if program == OURS && !column.starts_with(OURS) {
        column = format!("{OURS}/{column}");
    }
    if row.compile != NOT_COMPILED {
        column += &format!(", compile {}", row.compile);
    }
    if let (Some(_), Some(dtype)) = (row.prompt_tokens, &row.dtype) {
        column += &format!(", {dtype}");
    }
    column
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_layer_row_is_one_figure() {
        let row = json!({
            "implementation": "grouped_mm", "compile": "none", "tokens": 4, "median_ms": 2.5,
            "fraction_of_limit": 0.9,
        });
        let samples = read(OURS, "olmoe bf16", &row).unwrap().unwrap();
        let expected = Sample {
            table: "olmoe bf16".to_owned(),
            quantity: Quantity::Time,
            tokens: 4,
            column: "moexperts/grouped_mm".to_owned(),
            value: 2.5,
            of_limit: Some(0.9),
        };
        assert_eq!(samples, [expected]);
    }

    #[test]
    fn a_model_row_is_a_figure_for_each_quantity_it_has() {
        let row = json!({
            "implementation": "transformers/eager", "compile": "default", "dtype": "bf16",
            "prompt_tokens": 16,
            "prefill_tok_per_s": 100.0, "decode_tok_per_s": 10.0, "load_s": null,
            "peak_memory_bytes": 5_000_000, "decode_gb_per_s": 30.0, "limit_gb_per_s": 40.0,
        });
        let samples = read("transformers", "a model", &row).unwrap().unwrap();
        let figures: Vec<_> = samples.iter().map(|s| (s.quantity, s.value, s.of_limit)).collect();
        let expected = [
            (Quantity::Prefill, 100.0, None),
            (Quantity::Decode, 10.0, Some(0.75)),
            (Quantity::PeakMemory, 5.0, None),
        ];
        assert_eq!(figures, expected);
        assert!(samples.iter().all(|s| s.column == "transformers/eager, compile default, bf16"));
    }

    #[test]
    fn a_vision_row_is_one_figure() {
        let row = json!({
            "implementation": "moexperts", "compile": "none", "dtype": "bf16", "patches": 4096,
            "prepare_ms": 20.0, "median_ms": 9000.0, "fraction_of_limit": 0.5,
        });
        let samples = read(OURS, "a model bf16, 1024x1024", &row).unwrap().unwrap();
        let figures: Vec<_> = samples.iter().map(|s| (s.quantity, s.value, s.of_limit)).collect();
        assert_eq!(figures, [(Quantity::Time, 9000.0, Some(0.5))]);
        assert_eq!((samples[0].tokens, samples[0].column.as_str()), (4096, "moexperts"));
    }

    #[test]
    fn a_skipped_row_is_an_absence() {
        let row = json!({
            "implementation": "transformers/batched_mm", "compile": "none", "tokens": 64,
            "median_ms": null, "skipped": "too large",
        });
        let absence = read("transformers", "olmoe bf16", &row).unwrap().unwrap_err();
        assert_eq!(absence.tokens, Some(64));
        assert_eq!(absence.reason, "too large");
    }

    #[test]
    fn a_row_without_tokens_is_an_error() {
        let row = json!({"implementation": "y", "compile": "none"});
        let error = read("x", "olmoe bf16", &row).unwrap_err();
        assert_eq!(error.to_string(), "a row of x has no number of tokens");
    }
}
