//! Bars for downloads, for conversions and for rows of a table.

use std::{
    collections::HashMap,
    io::{IsTerminal as _, stderr},
    sync::{Arc, Mutex, PoisonError},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use moexperts::{Amount, Progress};

const TEMPLATE: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

const STEPS_TEMPLATE: &str = "{msg} {wide_bar} {pos}/{len} {eta}";

const ROWS_TEMPLATE: &str = "{msg} {wide_bar} {pos}/{len} rows {elapsed}";

const WORK_TEMPLATE: &str = "{msg} {wide_bar} {percent} % {eta} left";

/// A bar a file or kind of work on standard error if that is a terminal, nothing otherwise.
pub fn bars() -> Arc<dyn Progress> {
    if stderr().is_terminal() { Arc::new(Bars::default()) } else { Arc::new(()) }
}

/// A bar of this many rows on standard error if that is a terminal, a hidden one otherwise.
pub(crate) fn rows(count: u64) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    ProgressBar::new(count).with_style(style(ROWS_TEMPLATE))
}

/// The same of work in units that take about the same time each.
pub(crate) fn work(units: u64) -> ProgressBar {
    let bar = rows(units);
    if !bar.is_hidden() {
        bar.set_style(style(WORK_TEMPLATE));
    }
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is well-formed")
}

#[derive(Debug, Default)]
struct Bars {
    screen: MultiProgress,
    bars: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    fn with<R>(&self, work: impl FnOnce(&mut HashMap<String, ProgressBar>) -> R) -> R {
        work(&mut self.bars.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Progress for Bars {
    fn start(&self, what: &str, amount: Amount) {
        let (amount, template) = match amount {
            Amount::Bytes(bytes) => (bytes, TEMPLATE),
            Amount::Steps(steps) => (steps, STEPS_TEMPLATE),
            // Work whose amount has no unit known here goes on without a bar.
            _ => return,
        };
        let bar =
            ProgressBar::new(amount).with_style(style(template)).with_message(what.to_owned());
        let bar = self.screen.add(bar);
        self.with(|bars| bars.insert(what.to_owned(), bar));
    }

    fn advance(&self, what: &str, done: u64) {
        self.with(|bars| {
            if let Some(bar) = bars.get(what) {
                bar.inc(done);
            }
        });
    }

    fn finish(&self, what: &str) {
        if let Some(bar) = self.with(|bars| bars.remove(what)) {
            bar.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_a_file_from_start_to_finish() {
        let bars = Bars {
            screen: MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::hidden()),
            ..Bars::default()
        };
        bars.start("config.json", Amount::Bytes(10));
        bars.advance("config.json", 4);
        bars.advance("not started", 4);
        assert_eq!(bars.with(|bars| bars["config.json"].position()), 4);
        bars.finish("config.json");
        assert!(bars.with(|bars| bars.is_empty()));
    }
}
