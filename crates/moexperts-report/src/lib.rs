//! Results of `moexperts bench sweep`: the file they are kept in, what is computed from them, and how
//! they are shown, as tables and as a page.
//!
//! Measuring is the program's; nothing here knows a device, a model or a backend but by name.
//! [`Results`] is what was measured and nothing else. [`CellSummary`] and [`Change`] follow from it,
//! and every table and the page show those.

#![forbid(unsafe_code)]

mod changes;
mod csv;
mod error;
mod markdown;
mod page;
mod published;
mod results;
mod statistics;
mod summary;

pub use self::{
    changes::{Change, Measure, changes},
    csv::csv,
    error::{ReportError, Result},
    markdown::markdown,
    page::{Named, page},
    published::{Published, published},
    results::{Cell, Fact, Key, Program, Results, Skipped, Target, Work},
    statistics::{Statistics, mean, median},
    summary::{CellSummary, Phase, Time, summaries},
};
