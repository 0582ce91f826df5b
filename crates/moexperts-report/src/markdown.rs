//! `results.md`: the original's table, once for each measure.

use crate::{CellSummary, Measure, Results, Skipped, Statistics, Target, summaries};

/// The results as Markdown: what was measured and how, then a table for generation, prefill and
/// decode with the columns of the original's benchmark.
pub fn markdown(results: &Results) -> String {
    let cells = summaries(results);
    let commit = results.program.commit.as_deref().unwrap_or("not known");
    let mut text = format!(
        "# Experts backends: {}\n\n- command: {}\n- program: moexperts {}, commit {}\n- date: {}\n",
        plain(&results.model),
        plain(&results.command),
        plain(&results.program.version),
        plain(commit),
        plain(&results.date),
    );
    for fact in &results.machine {
        text += &format!("- {}: {}\n", plain(&fact.0), plain(&fact.1));
    }
    for target in &results.targets {
        text += &limits(target);
    }
    let (complete, planned) = (results.complete_cells(), results.planned);
    if complete < planned {
        text += &format!("- complete: {complete} of {planned} combinations\n");
    }
    for measure in Measure::ALL {
        text += &format!("\n## {}\n\n{}", heading(measure), table(measure, &cells));
    }
    if !results.skipped.is_empty() {
        text += "\n## Not run\n\n";
        text.extend(results.skipped.iter().map(reason));
    }
    text
}

fn limits(target: &Target) -> String {
    let spread = |measured: &[f64]| {
        let Statistics { median, p10, p90, .. } = Statistics::of(measured).scaled(1e-9);
        format!("{median:.1} ({p10:.1} to {p90:.1})")
    };
    let mut text = format!(
        "- {} {}: {}; at most {} GB/s and {} GFLOP/s of {}\n",
        plain(&target.device),
        plain(&target.dtype),
        plain(&target.hardware),
        spread(&target.bytes_per_second),
        spread(&target.flops_per_second),
        plain(&target.operations),
    );
    text.extend(target.notes.iter().map(|note| format!("- {}\n", plain(note))));
    text
}

fn heading(measure: Measure) -> &'static str {
    match measure {
        Measure::Generation => "Generation, from the prompt to the last token",
        Measure::Prefill => "Prefill, to the first token",
        Measure::Decode => "Decode, all steps after it",
    }
}

fn table(measure: Measure, cells: &[CellSummary]) -> String {
    const TITLES: [(&str, &str); 13] = [
        ("Device", "---"),
        ("Dtype", "---"),
        ("Batch", "---:"),
        ("Sequence", "---:"),
        ("New", "---:"),
        ("Compile", "---"),
        ("Implementation", "---"),
        ("Mean ms", "---:"),
        ("Median ms", "---:"),
        ("P90 ms", "---:"),
        ("Tokens/s", "---:"),
        ("Of limit", "---:"),
        ("Peak memory MB", "---:"),
    ];
    let row = |cell: &CellSummary| {
        let (key, time) = (&cell.key, measure.of(cell));
        let memory = cell.peak_memory_bytes.map(|bytes| format!("{:.1}", bytes as f64 / 1e6));
        line(&[
            plain(&key.device),
            plain(&key.dtype),
            key.batch.to_string(),
            key.sequence.to_string(),
            key.new_tokens.to_string(),
            plain(&key.compile),
            plain(&key.implementation),
            format!("{:.2}", time.ms.mean),
            format!("{:.2}", time.ms.median),
            format!("{:.2}", time.ms.p90),
            format!("{:.1}", time.tokens_per_second),
            format!("{:.0} %", 100.0 * time.fraction_of_limit),
            memory.unwrap_or_default(),
        ])
    };
    let titles = [TITLES.map(|(title, _)| title), TITLES.map(|(_, rule)| rule)];
    titles.iter().map(|titles| line(titles)).chain(cells.iter().map(row)).collect()
}

fn line(fields: &[impl AsRef<str>]) -> String {
    let fields: Vec<&str> = fields.iter().map(AsRef::as_ref).collect();
    format!("| {} |\n", fields.join(" | "))
}

fn reason(skipped: &Skipped) -> String {
    format!("- {}: {}\n", plain(&skipped.combination()), plain(&skipped.reason))
}

/// Text that means nothing to Markdown and stays in its line.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let mut in_word = false;
    while let Some(c) = chars.next() {
        let word_follows = chars.peek().is_some_and(|next| next.is_alphanumeric());
        match c {
            '\\' | '`' | '*' | '[' | ']' | '|' | '#' | '~' => plain.extend(['\\', c]),
            // Within a word it is nothing but itself.
            '_' if !(in_word && word_follows) => plain.extend(['\\', c]),
            '<' => plain.push_str("&lt;"),
            '>' => plain.push_str("&gt;"),
            '&' => plain.push_str("&amp;"),
            c if c.is_control() => plain.push(' '),
            c => plain.push(c),
        }
        in_word = c.is_alphanumeric();
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::made_up;

    #[test]
    fn a_row_a_cell_in_each_table() {
        let mut results = made_up::results();
        results.planned = 3;
        results.skipped.push(Skipped {
            device: Some("cpu".to_owned()),
            dtype: None,
            batch: None,
            sequence: Some(9),
            new_tokens: None,
            compile: None,
            implementation: None,
            reason: "too long".to_owned(),
        });
        let text = markdown(&results);
        let row = "| cpu | bf16 | 2 | 8 | 5 | none | eager | 11.00 | 10.00 | 12.80 | 1000.0 | 50 % | \
                   123.5 |\n";
        assert!(text.contains(row), "{text}");
        assert_eq!(text.matches("| grouped_mm |").count(), 3);
        assert!(text.contains("- complete: 2 of 3 combinations\n"));
        assert!(text.ends_with("## Not run\n\n- cpu sequence 9: too long\n"), "{text}");
        assert!(text.contains("at most 10.0 (10.0 to 10.0) GB/s and 100.0 "), "{text}");
    }

    #[test]
    fn names_are_no_markup() {
        let mut results = made_up::results();
        results.cells[0].key.implementation = "a|b\n<script>*".to_owned();
        let text = markdown(&results);
        assert!(text.contains(r"| a\|b &lt;script&gt;\* |"), "{text}");
        assert_eq!(plain("grouped_mm _mine_ a__b"), r"grouped_mm \_mine\_ a\_\_b");
        let widths = text
            .lines()
            .filter(|line| line.starts_with("| "))
            .map(|line| line.replace(r"\|", "").matches('|').count());
        assert!(widths.into_iter().all(|width| width == 14), "{text}");
    }
}
