//! `report.html`: a page that holds its data, its scripts and the chart library, and needs nothing
//! else.
//!
//! Whatever a name in the data holds, it runs nothing: the data stands in the page as JSON without
//! the characters of markup, the scripts only ever write text, and the page's policy allows the
//! hashes of its two scripts and no address at all.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::{
    CellSummary, Change, Fact, Published, Results, Skipped, Statistics, changes, published,
    summaries,
};

macro_rules! asset {
    ($file:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/page/", $file))
    };
}

const TEMPLATE: &str = asset!("index.html");
const STYLE: &str = asset!("style.css");
const CHART_LIBRARY: &str = asset!("vendor/echarts.common.min.js");

/// The page's scripts: what one defines, those after it use.
const SCRIPTS: [&str; 15] = [
    asset!("js/format.js"),
    asset!("js/dom.js"),
    asset!("js/data.js"),
    asset!("js/palette.js"),
    asset!("js/charts.js"),
    asset!("js/filters.js"),
    asset!("js/findings.js"),
    asset!("js/latency.js"),
    asset!("js/crossover.js"),
    asset!("js/roofline.js"),
    asset!("js/memory.js"),
    asset!("js/comparison.js"),
    asset!("js/table.js"),
    asset!("js/method.js"),
    asset!("js/main.js"),
];

/// Results and the name of their file.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// What the reader calls them.
    pub file: &'a str,
    /// What it holds.
    pub results: &'a Results,
}

/// The page of some results, or of what changed.
///
/// - `before`: earlier results to compare with
/// - `with_published`: whether published figures of other hardware stand beside them
pub fn page(shown: Named<'_>, before: Option<Named<'_>>, with_published: bool) -> String {
    let report = Report::new(shown, before, with_published);
    let data = serde_json::to_string(&report).expect("a report is numbers and strings");
    let script = SCRIPTS.join("\n");
    let hashes = [CHART_LIBRARY, &script]
        .map(|script| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(script.as_bytes()))));
    let policy = format!(
        "default-src 'none'; script-src {}; style-src 'unsafe-inline'; img-src data:",
        hashes.join(" ")
    );
    fill(TEMPLATE, |placeholder| match placeholder {
        "title" => escaped(&report.title),
        "policy" => policy.clone(),
        "style" => STYLE.to_owned(),
        "report" => without_markup(&data),
        "chart-library" => CHART_LIBRARY.to_owned(),
        "script" => script.clone(),
        other => unreachable!("the template has no `{other}`"),
    })
}

/// What the page's scripts read.
#[derive(Debug, Serialize)]
struct Report<'a> {
    title: String,
    /// The one shown comes last.
    runs: Vec<Run<'a>>,
    changes: Vec<Change>,
    reference: Vec<Published>,
}

/// A sweep, summed up.
#[derive(Debug, Serialize)]
struct Run<'a> {
    file: &'a str,
    model: &'a str,
    program: String,
    commit: Option<&'a str>,
    command: &'a str,
    date: &'a str,
    repetitions: usize,
    /// As text: a number of a script has fewer digits.
    seed: String,
    planned: usize,
    complete_cells: usize,
    machine: &'a [Fact],
    targets: Vec<Target<'a>>,
    cells: Vec<CellSummary>,
    skipped: &'a [Skipped],
}

#[derive(Debug, Serialize)]
struct Target<'a> {
    device: &'a str,
    dtype: &'a str,
    hardware: &'a str,
    bytes_per_second: Statistics,
    flops_per_second: Statistics,
    operations: &'a str,
    load_s: f64,
    notes: &'a [String],
}

impl<'a> Report<'a> {
    fn new(shown: Named<'a>, before: Option<Named<'a>>, with_published: bool) -> Self {
        let title = format!("Experts backends: {}", shown.results.model);
        let runs: Vec<Run<'_>> = before.into_iter().chain([shown]).map(Run::new).collect();
        let changes = match runs.as_slice() {
            [before, after] => changes(&before.cells, &after.cells),
            _ => Vec::new(),
        };
        Self {
            title,
            runs,
            changes,
            reference: if with_published { published() } else { Vec::new() },
        }
    }
}

impl<'a> Run<'a> {
    fn new(Named { file, results }: Named<'a>) -> Self {
        let target = |target: &'a crate::Target| Target {
            device: &target.device,
            dtype: &target.dtype,
            hardware: &target.hardware,
            bytes_per_second: Statistics::of(&target.bytes_per_second),
            flops_per_second: Statistics::of(&target.flops_per_second),
            operations: &target.operations,
            load_s: target.load_s,
            notes: &target.notes,
        };
        Self {
            file,
            model: &results.model,
            program: format!("moexperts {}", results.program.version),
            commit: results.program.commit.as_deref(),
            command: &results.command,
            date: &results.date,
            repetitions: results.repetitions,
            seed: results.seed.to_string(),
            planned: results.planned,
            complete_cells: results.complete_cells(),
            machine: &results.machine,
            targets: results.targets.iter().map(target).collect(),
            cells: summaries(results),
            skipped: &results.skipped,
        }
    }
}

/// A template with each `{{placeholder}}` replaced; what replaces it is not looked at again.
fn fill(template: &str, with: impl Fn(&str) -> String) -> String {
    let mut parts = template.split("{{");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (placeholder, rest) = part.split_once("}}").expect("a placeholder ends");
        filled += &with(placeholder);
        filled += rest;
    }
    filled
}

/// Text of an element.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// JSON that says the same without a character that means something to HTML or ends a line of a
/// script. All of them stand in strings alone.
fn without_markup(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                safe.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::results::made_up;

    fn data(page: &str) -> &str {
        let (_, rest) = page.split_once(r#"<script type="application/json" id="report">"#).unwrap();
        rest.split_once("</script>").unwrap().0
    }

    #[test]
    fn what_a_name_holds_stays_a_string() {
        let mut results = made_up::results();
        let name = "</script><script>alert(1)</script>{{script}}&\u{2028}\"";
        results.model = name.to_owned();
        results.cells[0].key.implementation = name.to_owned();
        let page = page(Named { file: name, results: &results }, None, false);
        assert!(!page.contains("<script>alert"), "it stands nowhere as markup");
        // Not one of them: `</script ` ends a script too, and `<!--` changes what does.
        assert!(!data(&page).contains(['<', '>', '&', '\u{2028}']), "{}", data(&page));
        let data: Value = serde_json::from_str(data(&page)).unwrap();
        assert_eq!(data["runs"][0]["model"], name);
        assert_eq!(data["runs"][0]["cells"][0]["implementation"], name);
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;{{script}}&amp;"), "the title");
    }

    #[test]
    fn only_the_scripts_of_the_page_are_allowed() {
        let results = made_up::results();
        let page = page(Named { file: "a", results: &results }, None, false);
        let scripts: Vec<&str> = page
            .split("<script>")
            .skip(1)
            .map(|rest| rest.split_once("</script>").unwrap().0)
            .collect();
        assert_eq!(scripts.len(), 2);
        for script in scripts {
            let hash = STANDARD.encode(Sha256::digest(script.as_bytes()));
            assert!(page.contains(&format!("'sha256-{hash}'")));
        }
        assert!(page.contains("content=\"default-src 'none'; script-src 'sha256-"));
        for address in ["src=\"http", "href=\"http", "@import", "url(http"] {
            assert!(!STYLE.contains(address) && !TEMPLATE.contains(address), "{address}");
        }
    }

    #[test]
    fn two_results_have_changes_and_published_figures_come_when_asked_for() {
        let results = made_up::results();
        let named = Named { file: "a", results: &results };
        let report = |before, published| -> Value {
            serde_json::from_str(data(&page(named, before, published))).unwrap()
        };
        let one = report(None, false);
        assert_eq!(one["runs"].as_array().unwrap().len(), 1);
        assert_eq!(
            (&one["changes"], &one["reference"]),
            (&Value::Array(vec![]), &Value::Array(vec![]))
        );
        let two = report(Some(named), true);
        assert_eq!(two["runs"].as_array().unwrap().len(), 2);
        assert_eq!(two["changes"].as_array().unwrap().len(), 6);
        assert_eq!(two["changes"][0]["measure"], "generation");
        assert!(two["reference"].as_array().unwrap().len() > 36);
        assert_eq!(two["runs"][0]["cells"][0]["prefill"]["flops"], 2e8);
    }
}
