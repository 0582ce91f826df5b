//! `results.csv`: a line a cell.

use crate::{CellSummary, Measure, Results, summaries};

/// The columns that name a combination.
const KEY: [&str; 9] = [
    "device",
    "dtype",
    "batch",
    "sequence",
    "new_tokens",
    "compile",
    "implementation",
    "decode_implementation",
    "runs",
];

/// The columns of each measure, after its name.
const TIME: [&str; 6] =
    ["mean_ms", "median_ms", "p10_ms", "p90_ms", "tokens_per_second", "fraction_of_limit"];

/// The results as comma-separated values, quoted as in RFC 4180, with a line of titles. A number has
/// all its digits.
pub fn csv(results: &Results) -> String {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let times = Measure::ALL
        .iter()
        .flat_map(|measure| TIME.map(|column| format!("{}_{column}", measure.name())));
    let titles = KEY.map(str::to_owned).into_iter().chain(times);
    let titles = titles.chain(["peak_memory_bytes".to_owned()]);
    let mut write = |fields: Vec<String>| {
        writer.write_record(fields).expect("memory takes lines of the same length");
    };
    write(titles.collect());
    summaries(results).iter().for_each(|cell| write(fields(cell)));
    let bytes = writer.into_inner().expect("memory takes everything");
    String::from_utf8(bytes).expect("fields are strings")
}

fn fields(cell: &CellSummary) -> Vec<String> {
    let key = &cell.key;
    let mut fields = vec![
        key.device.clone(),
        key.dtype.clone(),
        key.batch.to_string(),
        key.sequence.to_string(),
        key.new_tokens.to_string(),
        key.compile.clone(),
        key.implementation.clone(),
        cell.decode_implementation.clone(),
        cell.runs.to_string(),
    ];
    for measure in Measure::ALL {
        let time = measure.of(cell);
        let ms = [time.ms.mean, time.ms.median, time.ms.p10, time.ms.p90];
        let rates = [time.tokens_per_second, time.fraction_of_limit];
        fields.extend(ms.iter().chain(&rates).map(f64::to_string));
    }
    fields.push(cell.peak_memory_bytes.map_or(String::new(), |bytes| bytes.to_string()));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::made_up;

    #[test]
    fn a_line_a_cell_whatever_the_names_hold() {
        let mut results = made_up::results();
        results.cells[1].key.implementation = "a,\"b\"\nc".to_owned();
        results.cells[1].peak_memory_bytes = None;
        let text = csv(&results);
        let mut reader = ::csv::Reader::from_reader(text.as_bytes());
        let titles = reader.headers().unwrap().clone();
        let lines: Vec<::csv::StringRecord> = reader.records().map(|line| line.unwrap()).collect();
        assert_eq!(lines.len(), 2);
        let field = |line: usize, title: &str| {
            let place = titles.iter().position(|got| got == title).unwrap();
            lines[line][place].to_owned()
        };
        assert_eq!(field(0, "implementation"), "eager");
        assert_eq!(field(1, "implementation"), "a,\"b\"\nc");
        assert_eq!(field(0, "generation_median_ms"), "10");
        assert_eq!(field(0, "prefill_fraction_of_limit"), "0.5");
        assert_eq!(field(0, "peak_memory_bytes"), "123456789");
        assert_eq!(field(1, "peak_memory_bytes"), "");
    }
}
