//! What a sweep shows while it runs.

use moexperts_report::{CellSummary, Key, Results, Skipped, summaries};

use crate::{
    generation::Variant,
    output::{
        table::Column,
        text::{bytes, digits, percent},
    },
};

/// The columns of the table, for these variants.
pub(crate) fn columns(variants: &[Variant]) -> Vec<Column> {
    let backends = variants.iter().map(|variant| variant.backend.as_str());
    vec![
        Column::words("implementation", backends),
        Column::words("compile", variants.iter().map(|variant| variant.compile.to_string())),
        Column::number("batch", 0),
        Column::number("sequence", 0),
        Column::number("new", 0),
        Column::number("ms", 6),
        Column::number("p10-p90", 13),
        Column::number("prefill ms", 0),
        Column::number("decode ms", 0),
        Column::number("tok/s", 0),
        Column::number("of limit", 0),
        Column::number("peak memory", 0),
    ]
}

/// The texts of those columns, a row for each of these combinations that has runs.
pub(crate) fn rows(results: &Results, wanted: impl Fn(&Key) -> bool) -> Vec<Vec<String>> {
    summaries(results).iter().filter(|cell| wanted(&cell.key)).map(cells).collect()
}

fn cells(cell: &CellSummary) -> Vec<String> {
    let CellSummary { key, generation, prefill, decode, peak_memory_bytes, .. } = cell;
    vec![
        key.implementation.clone(),
        key.compile.clone(),
        key.batch.to_string(),
        key.sequence.to_string(),
        key.new_tokens.to_string(),
        digits(generation.ms.median),
        format!("{}-{}", digits(generation.ms.p10), digits(generation.ms.p90)),
        digits(prefill.time.ms.median),
        digits(decode.time.ms.median),
        digits(generation.tokens_per_second),
        percent(generation.fraction_of_limit),
        peak_memory_bytes.map_or("-".to_owned(), bytes),
    ]
}

/// The lines above the table of a target.
pub(crate) fn heading(results: &Results, target: usize) -> Vec<String> {
    let target = &results.targets[target];
    let mut lines = vec![
        format!("machine   {}", target.hardware),
        format!("model     {}, {}, loaded in {:.3} s", results.model, target.dtype, target.load_s),
    ];
    lines.extend(target.notes.iter().map(|note| format!("note: {note}")));
    let here = results.skipped.iter().filter(|skipped| {
        skipped.device.as_ref().is_none_or(|device| device == &target.device)
            && skipped.dtype.as_ref().is_none_or(|dtype| dtype == &target.dtype)
    });
    lines.extend(here.map(not_run));
    lines.push(String::new());
    lines
}

pub(crate) fn not_run(skipped: &Skipped) -> String {
    format!("not run: {}: {}", skipped.combination(), skipped.reason)
}
