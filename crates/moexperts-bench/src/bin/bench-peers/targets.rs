//! What this project wants to reach on a GPU, and what the rows of a record say of it.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use moexperts_report::median;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    args::Generation,
    peer::OURS,
    samples::milliseconds,
    table::distinct,
    tools::{Context as _, Result},
};

/// Of copy bandwidth, for a token or two.
const FEWEST_TOKENS: f64 = 0.80;

/// Of copy bandwidth, from four tokens to the ridge.
const FEW_TOKENS: f64 = 0.90;

/// TFLOP/s over a layer in bf16, beyond the ridge.
const MANY_TOKENS: f64 = 480.0;

/// How many times faster than the best peer with few tokens, and with many.
const AHEAD: f64 = 1.5;

/// The list for the rows of some JSON files of records.
pub(crate) fn of_files(records: &[PathBuf]) -> Result<String> {
    #[derive(Deserialize)]
    struct Record {
        rows: Vec<Value>,
    }
    let mut rows = Vec::new();
    for path in records {
        let text = fs::read(path).context(|| format!("cannot read {}", path.display()))?;
        let record: Record =
            serde_json::from_slice(&text).context(|| format!("{} is no record", path.display()))?;
        rows.extend(record.rows);
    }
    Ok(list(&rows))
}

/// Every target and whether it is met, as a table with a last line that counts.
pub(crate) fn list(rows: &[Value]) -> String {
    let rows: Vec<RecordRow> =
        rows.iter().filter_map(|row| RecordRow::deserialize(row).ok()).collect();
    let mut targets = Vec::new();
    for (title, layer) in layers(&rows) {
        targets.extend(of_layer(&title, &layer));
    }
    for (title, cells) in models(&rows) {
        targets.extend(of_model(&title, &cells));
    }
    let mut text = "| target | of | wanted | worst | |\n|---|---|---|---|---|\n".to_owned();
    targets.iter().for_each(|target| text += &target.line());
    let met = targets.iter().filter(|target| target.missed_by().is_some_and(|by| by <= 0.0));
    let measured = targets.iter().filter(|target| target.worst.is_some()).count();
    let (met, all) = (met.count(), targets.len());
    let _ = writeln!(
        text,
        "\n{met} of {all} met, {} missed, {} not measured",
        measured - met,
        all - measured
    );
    text
}

/// What is read of a row.
#[derive(Debug, Clone, Deserialize)]
struct RecordRow {
    program: String,
    implementation: String,
    compile: String,
    #[serde(default)]
    cuda_graph: bool,
    dtype: String,
    shape: Option<String>,
    tokens: Option<u64>,
    median_ms: Option<f64>,
    gb_per_s: Option<f64>,
    gflop_per_s: Option<f64>,
    limit_gb_per_s: Option<f64>,
    limit_gflop_per_s: Option<f64>,
    model: Option<String>,
    batch: Option<u64>,
    prompt_tokens: Option<u64>,
    new_tokens: Option<u64>,
    prefill_tok_per_s: Option<f64>,
    decode_tok_per_s: Option<f64>,
}

/// Something wanted, at the place where it is furthest away.
#[derive(Debug, Clone, PartialEq)]
struct Target {
    what: &'static str,
    of: String,
    wanted: f64,
    /// How a value is written.
    unit: &'static str,
    /// A value and where it was measured.
    worst: Option<(f64, String)>,
}

impl Target {
    /// The least of some values.
    fn least(
        (what, wanted, unit): (&'static str, f64, &'static str),
        of: &str,
        values: impl Iterator<Item = (f64, String)>,
    ) -> Self {
        let worst = values.min_by(|(a, _), (b, _)| a.total_cmp(b));
        Self { what, of: of.to_owned(), wanted, unit, worst }
    }

    fn missed_by(&self) -> Option<f64> {
        self.worst.as_ref().map(|(value, _)| self.wanted - value)
    }

    fn line(&self) -> String {
        let Self { what, of, wanted, unit, worst } = self;
        let number = |value: f64| match value.abs() {
            100.0.. => format!("{value:.0}{unit}"),
            _ => format!("{value:.2}{unit}"),
        };
        let (measured, verdict) = match (worst, self.missed_by()) {
            (Some((value, place)), Some(by)) if by > 0.0 => {
                (format!("{} at {place}", number(*value)), format!("missed by {}", number(by)))
            }
            (Some((value, place)), _) => {
                (format!("{} at {place}", number(*value)), "met".to_owned())
            }
            (None, _) => ("–".to_owned(), "not measured".to_owned()),
        };
        format!("| {what} | {of} | {} | {measured} | {verdict} |\n", number(*wanted))
    }
}

/// One number of tokens, or one generation.
#[derive(Debug, Clone, Default)]
struct TargetCell {
    /// Our fastest.
    ours: Option<Ours>,
    /// The fastest of transformers, in whatever way it was compiled, in ms.
    transformers: Option<f64>,
    /// The fastest of torch's own grouped product, in ms.
    torch: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
struct Ours {
    ms: f64,
    /// The rates of a layer.
    gb_per_s: f64,
    gflop_per_s: f64,
}

impl TargetCell {
    fn ahead(&self, of: Option<f64>) -> Option<f64> {
        Some(of? / self.ours?.ms)
    }
}

/// The cells of a layer in a dtype, and what the GPU can do in GB/s and GFLOP/s.
#[derive(Debug, Default)]
struct TargetLayer {
    cells: BTreeMap<u64, TargetCell>,
    limits: Option<[f64; 2]>,
}

fn layers(rows: &[RecordRow]) -> Vec<(String, TargetLayer)> {
    let titles = rows.iter().filter_map(|row| Some((row.shape.clone()?, row.dtype.clone())));
    let mut layers = Vec::new();
    for (shape, dtype) in distinct(titles) {
        let is_of = |row: &&RecordRow| row.shape.as_ref() == Some(&shape) && row.dtype == dtype;
        let of: Vec<&RecordRow> = rows.iter().filter(is_of).collect();
        let tokens = distinct(of.iter().filter_map(|row| row.tokens));
        let cell = |tokens: u64| {
            let here = of.iter().copied().filter(|row| row.tokens == Some(tokens));
            (tokens, cell(here, |row| row.median_ms))
        };
        let cells = tokens.into_iter().map(cell).collect();
        // What torch measures is what users compare with; without it what our own program does.
        let measured = |own: bool| {
            let by = of.iter().filter(|row| (row.program == OURS) == own);
            let pairs = by.filter_map(|row| Some((row.limit_gb_per_s?, row.limit_gflop_per_s?)));
            let (bandwidths, peaks): (Vec<f64>, Vec<f64>) = pairs.unzip();
            Some([median(&bandwidths)?, median(&peaks)?])
        };
        let limits = measured(false).or_else(|| measured(true));
        layers.push((format!("{shape} {dtype}"), TargetLayer { cells, limits }));
    }
    layers
}

fn models(rows: &[RecordRow]) -> Vec<(String, BTreeMap<Generation, TargetCell>)> {
    let titles = rows.iter().filter_map(|row| Some((row.model_name()?, row.dtype.clone())));
    let mut models = Vec::new();
    for (model, dtype) in distinct(titles) {
        let is_of = |row: &&RecordRow| row.model_name() == Some(model) && row.dtype == dtype;
        let of: Vec<&RecordRow> = rows.iter().filter(is_of).collect();
        let generations = distinct(of.iter().filter_map(|row| row.generation()));
        let cell = |generation: Generation| {
            let here = of.iter().copied().filter(|row| row.generation() == Some(generation));
            (generation, cell(here, RecordRow::generation_ms))
        };
        models.push((format!("{model} {dtype}"), generations.into_iter().map(cell).collect()));
    }
    models
}

impl RecordRow {
    /// The checkpoint's folder, which some programs name with those around it.
    fn model_name(&self) -> Option<&str> {
        self.model.as_ref()?.rsplit('/').next()
    }

    fn generation(&self) -> Option<Generation> {
        let (batch, prompt_tokens) = (self.batch?, self.prompt_tokens?);
        Some(Generation { batch, prompt_tokens, new_tokens: self.new_tokens? })
    }

    fn generation_ms(&self) -> Option<f64> {
        let speeds = (self.prefill_tok_per_s, self.decode_tok_per_s);
        let [prefill, decode] = milliseconds(self.generation()?, speeds.0, speeds.1);
        Some(prefill? + decode?)
    }
}

/// The fastest of each, by the medians over the rounds.
fn cell<'a>(
    rows: impl Iterator<Item = &'a RecordRow>,
    ms: impl Fn(&RecordRow) -> Option<f64>,
) -> TargetCell {
    let mut variants: BTreeMap<_, Vec<(f64, &RecordRow)>> = BTreeMap::new();
    for row in rows {
        let name = (&row.program, &row.implementation, &row.compile, row.cuda_graph);
        if let Some(ms) = ms(row) {
            variants.entry(name).or_default().push((ms, row));
        }
    }
    let mut cell = TargetCell::default();
    for ((program, implementation, ..), runs) in variants {
        let of = |value: fn(&RecordRow) -> Option<f64>| {
            median(&runs.iter().filter_map(|(_, row)| value(row)).collect::<Vec<_>>())
                .unwrap_or(0.0)
        };
        let Some(ms) = median(&runs.iter().map(|(ms, _)| *ms).collect::<Vec<_>>()) else {
            continue;
        };
        let faster = |than: Option<f64>| Some(than.map_or(ms, |other| ms.min(other)));
        if program == OURS {
            if cell.ours.is_none_or(|ours| ms < ours.ms) {
                let (gb_per_s, gflop_per_s) = (of(|row| row.gb_per_s), of(|row| row.gflop_per_s));
                cell.ours = Some(Ours { ms, gb_per_s, gflop_per_s });
            }
        } else if implementation.starts_with("torch/") {
            cell.torch = faster(cell.torch);
        } else {
            cell.transformers = faster(cell.transformers);
        }
    }
    cell
}

fn of_layer(title: &str, layer: &TargetLayer) -> Vec<Target> {
    let place = |tokens: u64| format!("T = {tokens}");
    let cells = || layer.cells.iter().map(|(&tokens, cell)| (tokens, cell));
    // Bytes take longer than operations, if that can be told.
    let below_ridge = |ours: &Ours, [bandwidth, peak]: [f64; 2]| {
        ours.gb_per_s / bandwidth >= ours.gflop_per_s / peak
    };
    let bandwidth = |from: u64, to: u64| {
        cells().filter(move |(tokens, _)| (from..=to).contains(tokens)).filter_map(
            move |(tokens, cell)| {
                let (ours, limits) = (cell.ours?, layer.limits?);
                let part = ours.gb_per_s / limits[0];
                below_ridge(&ours, limits).then(|| (part, place(tokens)))
            },
        )
    };
    let peak = cells().filter_map(|(tokens, cell)| {
        let ours = cell.ours?;
        let beyond = !below_ridge(&ours, layer.limits?);
        beyond.then(|| (ours.gflop_per_s / 1e3, place(tokens)))
    });
    let ahead = |is_here: fn(u64) -> bool, of: fn(&TargetCell) -> Option<f64>| {
        cells()
            .filter(move |&(tokens, _)| is_here(tokens))
            .filter_map(move |(tokens, cell)| Some((cell.ahead(of(cell))?, place(tokens))))
    };
    let transformers = |cell: &TargetCell| cell.transformers;
    let copy = " of copy bandwidth";
    let mut targets = vec![
        Target::least(("decode, T < 4", FEWEST_TOKENS, copy), title, bandwidth(1, 3)),
        Target::least(("decode, T = 4 … 8", FEW_TOKENS, copy), title, bandwidth(4, 8)),
        Target::least(("T = 16 … ridge", FEW_TOKENS, copy), title, bandwidth(16, u64::MAX)),
    ];
    if title.ends_with("bf16") {
        targets.push(Target::least(("beyond the ridge", MANY_TOKENS, " TFLOP/s"), title, peak));
    }
    targets.extend([
        Target::least(("transformers, every T", 1.0, "×"), title, ahead(|_| true, transformers)),
        Target::least(("transformers, T ≤ 8", AHEAD, "×"), title, ahead(|t| t <= 8, transformers)),
        Target::least(
            ("transformers, T ≥ 512", AHEAD, "×"),
            title,
            ahead(|tokens| tokens >= 512, transformers),
        ),
        Target::least(
            ("torch's grouped product, every T", 1.0, "×"),
            title,
            ahead(|_| true, |cell| cell.torch),
        ),
    ]);
    targets
}

fn of_model(title: &str, cells: &BTreeMap<Generation, TargetCell>) -> Vec<Target> {
    let ahead = cells.iter().filter_map(|(generation, cell)| {
        Some((cell.ahead(cell.transformers)?, generation.to_string()))
    });
    vec![Target::least(("transformers, every generation", 1.0, "×"), title, ahead)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn layer(program: &str, implementation: &str, tokens: u64, ms: f64, rates: [f64; 2]) -> Value {
        json!({
            "program": program, "implementation": implementation, "compile": "none",
            "shape": "olmoe", "dtype": "bf16", "tokens": tokens, "median_ms": ms,
            "gb_per_s": rates[0], "gflop_per_s": rates[1],
            "limit_gb_per_s": if program == OURS { 4400.0 } else { 4000.0 },
            "limit_gflop_per_s": if program == OURS { 500e3 } else { 800e3 },
        })
    }

    fn line<'a>(text: &'a str, what: &str) -> &'a str {
        let line = text.lines().find(|line| line.contains(what));
        line.unwrap_or_else(|| panic!("no `{what}` in {text}"))
    }

    #[test]
    fn our_best_stands_against_what_torch_measured_of_the_gpu() {
        let rows = [
            layer(OURS, "grouped_mm", 1, 2.0, [1700.0, 1700.0]),
            layer(OURS, "batched_mm", 1, 1.0, [3400.0, 3400.0]),
            layer(OURS, "batched_mm", 4, 1.0, [3500.0, 3500.0]),
            layer(OURS, "grouped_mm", 8, 1.0, [3800.0, 3800.0]),
            layer(OURS, "grouped_mm", 4096, 1.0, [1000.0, 500e3]),
            layer("transformers", "transformers/eager", 1, 9.0, [0.0; 2]),
            layer("transformers", "transformers/batched_mm", 1, 1.6, [0.0; 2]),
            layer("transformers", "torch/grouped_mm", 1, 0.9, [0.0; 2]),
            layer("transformers", "transformers/grouped_mm", 4096, 1.4, [0.0; 2]),
        ];
        let text = list(&rows);
        let expected = "| decode, T < 4 | olmoe bf16 | 0.80 of copy bandwidth | \
                        0.85 of copy bandwidth at T = 1 | met |";
        assert_eq!(line(&text, "T < 4"), expected);
        let missed = "| 0.88 of copy bandwidth at T = 4 | missed by 0.03 of copy bandwidth |";
        assert!(line(&text, "4 … 8").ends_with(missed), "{text}");
        assert!(line(&text, "16 … ridge").ends_with("| – | not measured |"), "{text}");
        assert!(line(&text, "beyond").ends_with("| 500 TFLOP/s at T = 4096 | met |"), "{text}");
        assert!(line(&text, "every T | olmoe").ends_with("| 1.40× at T = 4096 | met |"), "{text}");
        assert!(line(&text, "T ≤ 8").ends_with("| 1.60× at T = 1 | met |"), "{text}");
        assert!(
            line(&text, "T ≥ 512").ends_with("| 1.40× at T = 4096 | missed by 0.10× |"),
            "{text}"
        );
        assert!(line(&text, "torch's").ends_with("| 0.90× at T = 1 | missed by 0.10× |"), "{text}");
        assert!(text.ends_with("\n4 of 8 met, 3 missed, 1 not measured\n"), "{text}");
    }

    #[test]
    fn rounds_count_by_their_median_and_our_own_limits_where_there_are_no_others() {
        let rows = [3000.0, 9000.0, 4000.0]
            .map(|rate| layer(OURS, "grouped_mm", 1, 1e4 / rate, [rate, rate]));
        let text = list(&rows);
        assert!(line(&text, "T < 4").contains("| 0.91 of copy bandwidth at T = 1 |"), "{text}");
        assert!(line(&text, "every T | olmoe").ends_with("not measured |"), "{text}");
    }

    #[test]
    fn a_model_is_ahead_in_the_time_of_a_whole_generation() {
        let row = |program: &str, prefill: f64, decode: Option<f64>| {
            let model = if program == OURS { "…/some" } else { "some" };
            json!({
                "program": program, "implementation": "grouped_mm", "compile": "none",
                "model": model, "dtype": "bf16", "batch": 1, "prompt_tokens": 10, "new_tokens": 11,
                "prefill_tok_per_s": prefill, "decode_tok_per_s": decode,
            })
        };
        let rows = [
            row(OURS, 1000.0, Some(100.0)),
            row("transformers", 100.0, Some(100.0)),
            row("transformers", 100.0, None),
        ];
        let text = list(&rows);
        let expected =
            "| transformers, every generation | some bf16 | 1.00× | 1.82× at 1x10x11 | met |";
        assert_eq!(line(&text, "every generation"), expected);
        assert!(list(&[]).ends_with("\n0 of 0 met, 0 missed, 0 not measured\n"));
    }
}
