//! The figures as tables of ratios, and what is missing from them as a list.

use std::fmt::Write as _;

use moexperts_report::median;

use crate::{
    peer::OURS,
    samples::{Absence, Sample},
};

/// Which of our columns peers are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    First,
    /// In each line.
    Best,
}

/// A table for every title and quantity, in the order in which they came.
pub(crate) fn tables(samples: &[Sample], base: Base) -> String {
    let mut text = String::new();
    for (title, quantity) in distinct(samples.iter().map(|s| (s.table.as_str(), s.quantity))) {
        let of_table: Vec<_> =
            samples.iter().filter(|s| s.table == title && s.quantity == quantity).collect();
        let _ = write!(text, "\n## {title}: {}\n\n{}", quantity.title(), table(&of_table, base));
    }
    text
}

/// What is absent, the rows of a table that lack the same figure for the same reason on one line.
pub(crate) fn absences(absences: &[Absence]) -> String {
    let mut text = String::new();
    for (column, table, reason) in
        distinct(absences.iter().map(|a| (&a.column, &a.table, &a.reason)))
    {
        let lines: Vec<_> = absences
            .iter()
            .filter(|a| (&a.column, &a.table, &a.reason) == (column, table, reason))
            .filter_map(|a| a.at)
            .collect();
        let _ = write!(text, "- {column}");
        if let Some(table) = table {
            let _ = write!(text, ", {table}");
        }
        if let Some(first) = lines.first() {
            let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
            let _ = write!(text, ", {} = {}", first.title(), lines.join(", "));
        }
        let _ = writeln!(text, ": {reason}");
    }
    text
}

/// A line for each T, a column for each program, and the ratio of the best peer.
fn table(samples: &[&Sample], base: Base) -> String {
    let (ours, peers): (Vec<_>, Vec<_>) =
        distinct(samples.iter().map(|s| s.column.as_str())).into_iter().partition(|c| is_ours(c));
    let columns = [ours.as_slice(), peers.as_slice()].concat();
    let title = samples.first().map_or("T", |sample| sample.at.title());
    let mut text = format!("| {title} | {} | best peer |\n", columns.join(" | "));
    text += &format!("|---{}|\n", "|---".repeat(columns.len() + 1));

    let mut lines = distinct(samples.iter().map(|s| s.at));
    lines.sort_unstable();
    for at in lines {
        let cell = |column: &str| -> Option<(f64, Option<f64>)> {
            let cell: Vec<_> =
                samples.iter().filter(|s| s.at == at && s.column == column).collect();
            let value = median(&cell.iter().map(|s| s.value).collect::<Vec<_>>())?;
            let of_limit: Vec<_> = cell.iter().filter_map(|s| s.of_limit).collect();
            Some((value, median(&of_limit)))
        };
        let quantity = samples[0].quantity;
        let own = match base {
            Base::First => ours.first().and_then(|column| Some(cell(column)?.0)),
            Base::Best => ours
                .iter()
                .filter_map(|column| Some(cell(column)?.0))
                .reduce(|best, value| if quantity.ratio(value, best) > 1.0 { value } else { best }),
        };
        let ratio = |value| own.map(|own| quantity.ratio(own, value));

        let _ = write!(text, "| {at} |");
        for (index, column) in columns.iter().enumerate() {
            let Some((value, of_limit)) = cell(column) else {
                text += " – |";
                continue;
            };
            let _ = write!(text, " {}", number(value));
            let compared = base == Base::First && index > 0 || index >= ours.len();
            if let (true, Some(ratio)) = (compared, ratio(value)) {
                let _ = write!(text, " ({ratio:.2}×)");
            }
            if let Some(of_limit) = of_limit {
                let _ = write!(text, ", {:.0} %", of_limit * 100.0);
            }
            text += " |";
        }
        let ratios = peers.iter().filter_map(|column| ratio(cell(column)?.0));
        match ratios.min_by(f64::total_cmp) {
            Some(ratio) => text += &format!(" {ratio:.2}× |\n"),
            None => text += " – |\n",
        }
    }
    text
}

/// Whether a column is of this project's program.
pub(crate) fn is_ours(column: &str) -> bool {
    column.split('/').next() == Some(OURS)
}

/// Three digits that count.
fn number(value: f64) -> String {
    let decimals = match value {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// The values without repetition, in the order in which they came.
pub(crate) fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    values.fold(Vec::new(), |mut distinct, value| {
        if !distinct.contains(&value) {
            distinct.push(value);
        }
        distinct
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{At, Quantity};

    fn sample(quantity: Quantity, tokens: u64, column: &str, value: f64) -> Sample {
        let (table, column) = ("olmoe bf16".to_owned(), column.to_owned());
        let (at, of_limit, rates) = (At::Tokens(tokens), None, None);
        Sample { table, quantity, at, column, value, of_limit, rates }
    }

    #[test]
    fn peers_are_compared_with_the_median_of_our_first_column() {
        let mut samples = vec![
            sample(Quantity::Time, 4, "zentorch/fused_moe", 3.0),
            sample(Quantity::Time, 4, "moexperts/grouped_mm", 2.0),
            sample(Quantity::Time, 4, "moexperts/grouped_mm", 9.0),
            sample(Quantity::Time, 4, "moexperts/grouped_mm", 1.0),
            sample(Quantity::Time, 4, "moexperts/batched_mm", 2.5),
            sample(Quantity::Time, 4, "transformers/eager", 8.0),
            sample(Quantity::Time, 1, "transformers/eager", 120.0),
        ];
        samples[1].of_limit = Some(0.914);
        let expected = "
## olmoe bf16: ms

| T | moexperts/grouped_mm | moexperts/batched_mm | zentorch/fused_moe | transformers/eager | best peer |
|---|---|---|---|---|---|
| 1 | – | – | – | 120 | – |
| 4 | 2.00, 91 % | 2.50 (1.25×) | 3.00 (1.50×) | 8.00 (4.00×) | 1.50× |
";
        assert_eq!(tables(&samples, Base::First), expected);
    }

    #[test]
    fn more_tokens_per_second_is_better() {
        let samples = [
            sample(Quantity::Decode, 16, "moexperts/grouped_mm", 60.0),
            sample(Quantity::Decode, 16, "llama.cpp", 40.0),
            sample(Quantity::Decode, 16, "transformers/eager", 30.0),
        ];
        let text = tables(&samples, Base::First);
        assert!(text.contains("## olmoe bf16: decode, tok/s"), "{text}");
        assert!(text.ends_with("| 16 | 60.0 | 40.0 (1.50×) | 30.0 (2.00×) | 1.50× |\n"), "{text}");
    }

    #[test]
    fn peers_are_compared_with_our_best_if_so_wanted() {
        let samples = [
            sample(Quantity::Time, 4, "moexperts/eager", 4.0),
            sample(Quantity::Time, 4, "moexperts/batched_mm", 2.0),
            sample(Quantity::Time, 4, "transformers/eager", 5.0),
        ];
        let text = tables(&samples, Base::Best);
        assert!(text.ends_with("| 4 | 4.00 | 2.00 | 5.00 (2.50×) | 2.50× |\n"), "{text}");
    }

    #[test]
    fn without_our_figures_there_is_no_ratio() {
        let text = tables(&[sample(Quantity::Time, 1, "transformers/eager", 0.0625)], Base::First);
        assert!(text.ends_with("| 1 | 0.062 | – |\n"), "{text}");
    }

    #[test]
    fn absences_of_one_reason_share_a_line() {
        let absence = |table: Option<&str>, tokens: Option<u64>| Absence {
            column: "transformers/batched_mm".to_owned(),
            table: table.map(str::to_owned),
            at: tokens.map(At::Tokens),
            reason: "too large".to_owned(),
        };
        let text = absences(&[
            absence(Some("olmoe bf16"), Some(64)),
            absence(Some("olmoe bf16"), Some(256)),
            absence(Some("olmoe f32"), None),
            absence(None, None),
        ]);
        let expected = "\
- transformers/batched_mm, olmoe bf16, T = 64, 256: too large
- transformers/batched_mm, olmoe f32: too large
- transformers/batched_mm: too large
";
        assert_eq!(text, expected);
    }
}
