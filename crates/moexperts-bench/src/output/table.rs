//! Rows as they are measured: a table on standard output, a JSON file, and a bar on standard error.

use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use serde::Serialize;

use super::{file, print, progress, text::printable};
use crate::error::BenchError;

/// A column of the table.
#[derive(Debug)]
pub(crate) struct Column {
    title: &'static str,
    width: usize,
    /// Numbers end below each other, words begin so.
    number: bool,
}

impl Column {
    /// Wide enough for each of these words.
    pub(crate) fn words<S: AsRef<str>>(
        title: &'static str,
        words: impl IntoIterator<Item = S>,
    ) -> Self {
        let widest = words.into_iter().map(|word| word.as_ref().chars().count()).max();
        Self { title, width: widest.unwrap_or(0).max(title.len()), number: false }
    }

    pub(crate) fn number(title: &'static str, width: usize) -> Self {
        Self { title, width: width.max(title.len()), number: true }
    }

    fn align(&self, text: &str) -> String {
        let width = self.width;
        if self.number { format!("{text:>width$}") } else { format!("{text:<width$}") }
    }
}

/// Lines on standard output, and a bar on standard error below them.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    pub(crate) bar: ProgressBar,
}

/// Where results go.
#[derive(Debug)]
pub(crate) struct Report {
    table: Table,
    json: Option<PathBuf>,
    rows: Vec<String>,
}

impl Table {
    pub(crate) fn new(columns: Vec<Column>, bar: ProgressBar) -> Self {
        Self { columns, bar }
    }

    /// A line between the rows.
    pub(crate) fn line(&self, text: &str) -> Result<(), BenchError> {
        self.bar.suspend(|| print(&format!("{}\n", printable(text))))
    }

    /// The line above the rows.
    pub(crate) fn titles(&self) -> Result<(), BenchError> {
        self.row(self.columns.iter().map(|column| column.title))
    }

    /// A row, a text for each column.
    pub(crate) fn row(
        &self,
        cells: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<(), BenchError> {
        let cells = self.columns.iter().zip(cells);
        let cells = cells.map(|(column, text)| column.align(text.as_ref()));
        self.line(cells.collect::<Vec<_>>().join("  ").trim_end())
    }
}

impl Report {
    /// For this many rows.
    pub(crate) fn new(columns: Vec<Column>, rows: usize, json: Option<&Path>) -> Self {
        let table = Table::new(columns, progress::rows(rows as u64));
        Self { table, json: json.map(Path::to_owned), rows: Vec::new() }
    }

    /// A line between the rows.
    pub(crate) fn line(&self, text: &str) -> Result<(), BenchError> {
        self.table.line(text)
    }

    /// The line above the rows.
    pub(crate) fn titles(&self) -> Result<(), BenchError> {
        self.table.titles()
    }

    /// Says at the bar what is being done.
    pub(crate) fn doing(&self, what: String) {
        self.table.bar.set_message(what);
    }

    /// A row that will not come.
    pub(crate) fn skip(&self) {
        self.table.bar.inc(1);
    }

    /// Shows a row and keeps all of them.
    pub(crate) fn row(
        &mut self,
        cells: &[impl AsRef<str>],
        row: &impl Serialize,
    ) -> Result<(), BenchError> {
        self.table.bar.inc(1);
        self.table.row(cells)?;
        self.rows.push(serde_json::to_string(row).expect("a row is numbers and names"));
        match &self.json {
            Some(path) => file::replace(path, array(&self.rows).as_bytes()),
            None => Ok(()),
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.table.bar.finish_and_clear();
    }
}

/// A JSON array with a row a line.
fn array(rows: &[String]) -> String {
    format!("[\n  {}\n]\n", rows.join(",\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_and_words_begin_below_each_other() {
        let name = Column::words("name", ["eager", "grouped_mm"]);
        assert_eq!(name.align("eager"), "eager     ");
        assert_eq!(Column::words("implementation", [""; 0]).align("a").len(), 14);
        assert_eq!(Column::number("ms", 6).align("1.23"), "  1.23");
        assert_eq!(Column::number("GFLOP/s", 6).align("1").len(), 7);
    }

    #[test]
    fn a_row_is_a_line_of_the_array() {
        let rows = [r#"{"a":1}"#.to_owned(), r#"{"a":2}"#.to_owned()];
        let text = array(&rows);
        assert_eq!(text, "[\n  {\"a\":1},\n  {\"a\":2}\n]\n");
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read[1]["a"], 2);
    }
}
