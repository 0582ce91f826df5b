//! Bars for downloads, for conversions and for rows of a table.

use std::{
    collections::HashMap,
    io::{IsTerminal as _, stderr},
    sync::{Arc, Mutex, PoisonError},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use moexperts::Progress;

const TEMPLATE: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

const ROWS_TEMPLATE: &str = "{msg} {wide_bar} {pos}/{len} rows {elapsed}";

/// A bar a file on standard error if that is a terminal, nothing otherwise.
pub(crate) fn downloads() -> Arc<dyn Progress> {
    if stderr().is_terminal() { Arc::new(Bars::default()) } else { Arc::new(()) }
}

/// A bar of this many rows on standard error if that is a terminal, a hidden one otherwise.
pub(crate) fn rows(count: u64) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    ProgressBar::new(count).with_style(style(ROWS_TEMPLATE))
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
    fn start(&self, file: &str, bytes: u64) {
        let bar = ProgressBar::new(bytes).with_style(style(TEMPLATE)).with_message(file.to_owned());
        let bar = self.screen.add(bar);
        self.with(|bars| bars.insert(file.to_owned(), bar));
    }

    fn advance(&self, file: &str, bytes: u64) {
        self.with(|bars| {
            if let Some(bar) = bars.get(file) {
                bar.inc(bytes);
            }
        });
    }

    fn finish(&self, file: &str) {
        if let Some(bar) = self.with(|bars| bars.remove(file)) {
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
        bars.start("config.json", 10);
        bars.advance("config.json", 4);
        bars.advance("not started", 4);
        assert_eq!(bars.with(|bars| bars["config.json"].position()), 4);
        bars.finish("config.json");
        assert!(bars.with(|bars| bars.is_empty()));
    }
}
