//! From the rows of the programs to the figures of a table.

use std::fmt;

use moexperts_report::median;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    args::Generation,
    peer::OURS,
    tools::{Context as _, Result},
};

/// What the rows of an implementation say that is not compiled.
const NOT_COMPILED: &str = "none";

/// What a figure says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quantity {
    Time,
    Prefill,
    Decode,
    GenerationTime,
    PrefillTime,
    DecodeTime,
    Load,
    PeakMemory,
}

impl Quantity {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Time => "ms",
            Self::Prefill => "prefill, tok/s",
            Self::Decode => "decode, tok/s",
            Self::GenerationTime => "generation, ms",
            Self::PrefillTime => "prefill, ms",
            Self::DecodeTime => "decode, ms",
            Self::Load => "load, s",
            Self::PeakMemory => "peak memory, MB",
        }
    }

    /// How many times better the first value is than the second.
    pub(crate) fn ratio(self, ours: f64, peer: f64) -> f64 {
        match self {
            Self::Prefill | Self::Decode => ours / peer,
            Self::Time
            | Self::GenerationTime
            | Self::PrefillTime
            | Self::DecodeTime
            | Self::Load
            | Self::PeakMemory => peer / ours,
        }
    }
}

/// The line of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum At {
    /// T, the tokens of a layer's call or of a prompt, or the patches of an image.
    Tokens(u64),
    Generation(Generation),
}

impl At {
    /// The title of the first column.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Tokens(_) => "T",
            Self::Generation(_) => "batch x prompt x new",
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens(tokens) => tokens.fmt(f),
            Self::Generation(generation) => generation.fmt(f),
        }
    }
}

/// One figure of one run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) table: String,
    pub(crate) quantity: Quantity,
    pub(crate) at: At,
    pub(crate) column: String,
    pub(crate) value: f64,
    /// The part of the machine's measured limit that this reaches.
    pub(crate) of_limit: Option<f64>,
    pub(crate) rates: Option<Rates>,
}

/// What a layer did and what the machine can do, as its program measured it: GB/s and GFLOP/s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rates {
    pub(crate) did: [f64; 2],
    pub(crate) can: [f64; 2],
}

/// What a machine can do by the median of what these samples say; `None` if none does.
pub(crate) fn limits<'a>(samples: impl Iterator<Item = &'a Sample>) -> Option<[f64; 2]> {
    let (bandwidths, peaks): (Vec<f64>, Vec<f64>) =
        samples.filter_map(|s| Some(s.rates?.can.into())).unzip();
    Some([median(&bandwidths)?, median(&peaks)?])
}

/// How rows of models become lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModelLines {
    /// One for a length of prompts, in tokens a second.
    Prompts,
    /// One for a batch with its prompts and what follows, in milliseconds.
    Generations,
}

/// Something that was not measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Absence {
    pub(crate) column: String,
    /// Everywhere, if there is none.
    pub(crate) table: Option<String>,
    /// Everywhere in the table, if there is none.
    pub(crate) at: Option<At>,
    pub(crate) reason: String,
}

/// What is read of a row; a layer, a model and a vision tower fill different fields.
#[derive(Debug, Deserialize)]
struct PeerRow {
    implementation: String,
    compile: String,
    dtype: Option<String>,
    #[serde(default)]
    cuda_graph: bool,
    tokens: Option<u64>,
    batch: Option<u64>,
    prompt_tokens: Option<u64>,
    new_tokens: Option<u64>,
    patches: Option<u64>,
    median_ms: Option<f64>,
    prefill_tok_per_s: Option<f64>,
    decode_tok_per_s: Option<f64>,
    load_s: Option<f64>,
    peak_memory_bytes: Option<f64>,
    fraction_of_limit: Option<f64>,
    gb_per_s: Option<f64>,
    gflop_per_s: Option<f64>,
    limit_gflop_per_s: Option<f64>,
    decode_gb_per_s: Option<f64>,
    limit_gb_per_s: Option<f64>,
    skipped: Option<String>,
}

/// The figures of one row of a program, or the reason why it has none.
pub(crate) fn read(
    program: &str,
    table: &str,
    lines: ModelLines,
    row: &Value,
) -> Result<Result<Vec<Sample>, Absence>> {
    let row = PeerRow::deserialize(row).context(|| format!("a row of {program}: {row}"))?;
    let column = column(program, lines, &row);
    let at = row.at(lines).context(|| format!("a row of {program} has no number of tokens"))?;
    if let Some(reason) = row.skipped {
        let table = Some(table.to_owned());
        return Ok(Err(Absence { column, table, at: Some(at), reason }));
    }
    let rates = || {
        let did = [row.gb_per_s?, row.gflop_per_s?];
        Some(Rates { did, can: [row.limit_gb_per_s?, row.limit_gflop_per_s?] })
    };
    let memory = (Quantity::PeakMemory, row.peak_memory_bytes.map(|bytes| bytes / 1e6), None);
    let figures = match at {
        At::Tokens(_) => {
            let decode = row.decode_gb_per_s.zip(row.limit_gb_per_s).map(|(did, can)| did / can);
            vec![
                (Quantity::Time, row.median_ms, row.fraction_of_limit),
                (Quantity::Prefill, row.prefill_tok_per_s, None),
                (Quantity::Decode, row.decode_tok_per_s, decode),
                (Quantity::Load, row.load_s, None),
                memory,
            ]
        }
        At::Generation(generation) => {
            let [prefill, decode] =
                milliseconds(generation, row.prefill_tok_per_s, row.decode_tok_per_s);
            let both = prefill.zip(decode).map(|(prefill, decode)| prefill + decode);
            vec![
                (Quantity::GenerationTime, both, None),
                (Quantity::PrefillTime, prefill, None),
                (Quantity::DecodeTime, decode, None),
                memory,
            ]
        }
    };
    let samples = figures.into_iter().filter_map(|(quantity, value, of_limit)| {
        Some(Sample {
            table: table.to_owned(),
            quantity,
            at,
            column: column.clone(),
            value: value?,
            of_limit,
            rates: rates(),
        })
    });
    Ok(Ok(samples.collect()))
}

/// The times of reading the prompts and of writing at some tokens a second.
pub(crate) fn milliseconds(
    Generation { batch, prompt_tokens, new_tokens }: Generation,
    prefill_tok_per_s: Option<f64>,
    decode_tok_per_s: Option<f64>,
) -> [Option<f64>; 2] {
    let of = |tokens: u64, speed: Option<f64>| Some(1e3 * (batch * tokens) as f64 / speed?);
    // The first new token comes with the prompt.
    [of(prompt_tokens, prefill_tok_per_s), of(new_tokens.saturating_sub(1), decode_tok_per_s)]
}

impl PeerRow {
    fn at(&self, lines: ModelLines) -> Option<At> {
        if let (ModelLines::Generations, Some(prompt_tokens)) = (lines, self.prompt_tokens) {
            let (batch, new_tokens) = (self.batch?, self.new_tokens?);
            return Some(At::Generation(Generation { batch, prompt_tokens, new_tokens }));
        }
        self.tokens.or(self.prompt_tokens).or(self.patches).map(At::Tokens)
    }
}

/// `program/implementation`, how it was compiled, and the dtype where programs may differ in it.
fn column(program: &str, lines: ModelLines, row: &PeerRow) -> String {
    let mut column = row.implementation.clone();
    if program == OURS && !column.starts_with(OURS) {
        column = format!("{OURS}/{column}");
    }
    if row.compile != NOT_COMPILED {
        column += &format!(", compile {}", row.compile);
    }
    if row.cuda_graph {
        column += ", graph";
    }
    if let (Some(_), Some(dtype), ModelLines::Prompts) = (row.prompt_tokens, &row.dtype, lines) {
        column += &format!(", {dtype}");
    }
    column
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PROMPTS: ModelLines = ModelLines::Prompts;

    #[test]
    fn a_layer_row_is_one_figure() {
        let row = json!({
            "implementation": "grouped_mm", "compile": "none", "tokens": 4, "median_ms": 2.5,
            "fraction_of_limit": 0.9,
        });
        let samples = read(OURS, "olmoe bf16", PROMPTS, &row).unwrap().unwrap();
        let expected = Sample {
            table: "olmoe bf16".to_owned(),
            quantity: Quantity::Time,
            at: At::Tokens(4),
            column: "moexperts/grouped_mm".to_owned(),
            value: 2.5,
            of_limit: Some(0.9),
            rates: None,
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
        let samples = read("transformers", "a model", PROMPTS, &row).unwrap().unwrap();
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
    fn a_generation_is_the_time_of_its_prompt_and_of_what_follows() {
        let row = json!({
            "implementation": "grouped_mm", "compile": "reduce-overhead", "dtype": "bf16",
            "batch": 2, "prompt_tokens": 16, "new_tokens": 5,
            "prefill_tok_per_s": 3200.0, "decode_tok_per_s": 100.0, "load_s": 3.0,
            "peak_memory_bytes": 5_000_000,
        });
        let samples = read(OURS, "a model", ModelLines::Generations, &row).unwrap().unwrap();
        let figures: Vec<_> = samples.iter().map(|s| (s.quantity, s.value)).collect();
        let expected = [
            (Quantity::GenerationTime, 90.0),
            (Quantity::PrefillTime, 10.0),
            (Quantity::DecodeTime, 80.0),
            (Quantity::PeakMemory, 5.0),
        ];
        assert_eq!(figures, expected);
        assert_eq!(samples[0].at.to_string(), "2x16x5");
        assert_eq!(samples[0].column, "moexperts/grouped_mm, compile reduce-overhead");
    }

    #[test]
    fn a_row_of_a_gpu_may_be_a_graph_and_says_what_the_gpu_can_do() {
        let row = json!({
            "implementation": "torch/grouped_mm", "compile": "none", "cuda_graph": true, "tokens": 4,
            "median_ms": 2.5, "gb_per_s": 3000.0, "gflop_per_s": 400.0, "limit_gb_per_s": 4000.0,
            "limit_gflop_per_s": 800_000.0,
        });
        let samples = read("transformers", "olmoe bf16", PROMPTS, &row).unwrap().unwrap();
        assert_eq!(samples[0].column, "torch/grouped_mm, graph");
        assert_eq!(limits(samples.iter()), Some([4000.0, 800_000.0]));
        assert_eq!(limits([].iter()), None);
    }

    #[test]
    fn a_vision_row_is_one_figure() {
        let row = json!({
            "implementation": "moexperts", "compile": "none", "dtype": "bf16", "patches": 4096,
            "prepare_ms": 20.0, "median_ms": 9000.0, "fraction_of_limit": 0.5,
        });
        let samples = read(OURS, "a model bf16, 1024x1024", PROMPTS, &row).unwrap().unwrap();
        let figures: Vec<_> = samples.iter().map(|s| (s.quantity, s.value, s.of_limit)).collect();
        assert_eq!(figures, [(Quantity::Time, 9000.0, Some(0.5))]);
        assert_eq!((samples[0].at, samples[0].column.as_str()), (At::Tokens(4096), "moexperts"));
    }

    #[test]
    fn a_skipped_row_is_an_absence() {
        let row = json!({
            "implementation": "transformers/batched_mm", "compile": "none", "tokens": 64,
            "median_ms": null, "skipped": "too large",
        });
        let absence = read("transformers", "olmoe bf16", PROMPTS, &row).unwrap().unwrap_err();
        assert_eq!(absence.at, Some(At::Tokens(64)));
        assert_eq!(absence.reason, "too large");
    }

    #[test]
    fn a_row_without_tokens_is_an_error() {
        let row = json!({"implementation": "y", "compile": "none"});
        let error = read("x", "olmoe bf16", PROMPTS, &row).unwrap_err();
        assert_eq!(error.to_string(), "a row of x has no number of tokens");
    }
}
