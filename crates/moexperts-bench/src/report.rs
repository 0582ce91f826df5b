//! `moexperts bench report`.

use std::path::{Path, PathBuf};

use moexperts_report::{Change, Measure, Named, Results, changes, page, summaries};

use crate::{
    args::BenchReportArgs,
    error::BenchError,
    output::{
        file, print,
        text::{digits, printable},
    },
};

pub(crate) fn run(args: &BenchReportArgs) -> Result<(), BenchError> {
    let first = Results::read(&args.results)?;
    let second = args.after.as_deref().map(Results::read).transpose()?;
    let names = [Some(&args.results), args.after.as_ref()]
        .map(|path| path.map_or(String::new(), |path| path.display().to_string()));
    let first = Named { file: &names[0], results: &first };
    let second = second.as_ref().map(|results| Named { file: &names[1], results });
    let (shown, before, default) = match second {
        Some(second) => (second, Some(first), "comparison.html"),
        None => (first, None, "report.html"),
    };
    let path = match (&args.out, &args.after) {
        (Some(path), _) => path.clone(),
        (None, Some(after)) => beside(after, default),
        (None, None) => beside(&args.results, default),
    };
    for results in [Some(&args.results), args.after.as_ref()].into_iter().flatten() {
        if path.canonicalize().is_ok_and(|path| results.canonicalize().is_ok_and(|r| r == path)) {
            return Err(BenchError::ReportOverResults { path });
        }
    }
    file::replace(&path, page(shown, before, args.reference).as_bytes())?;
    if let Some(before) = before {
        print(&changed(before.results, shown.results))?;
    }
    print(&format!("{}\n", path.display()))
}

fn beside(results: &Path, file: &str) -> PathBuf {
    results.with_file_name(file)
}

/// A line a combination that both have.
fn changed(before: &Results, after: &Results) -> String {
    let all = changes(&summaries(before), &summaries(after));
    let line = |change: &Change| {
        let Change { key, before, after, change, exceeds_noise, .. } = change;
        let said = match (exceeds_noise, *change < 0.0) {
            (false, _) => "within the noise",
            (true, true) => "faster",
            (true, false) => "slower",
        };
        let [before, after] = [before, after].map(|time| digits(time.ms.median));
        let line = format!("{key}: {before} -> {after} ms, {:+.1} %, {said}", 100.0 * change);
        printable(&line) + "\n"
    };
    let generation = all.iter().filter(|change| change.measure == Measure::Generation);
    let lines: String = generation.map(line).collect();
    match lines.is_empty() {
        true => "no combination is in both files\n".to_owned(),
        false => lines,
    }
}
