//! What differs between two sweeps.

use serde::Serialize;

use crate::{CellSummary, Key, Time};

/// What a time is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// From the prompt to the last token.
    Generation,
    /// To the first token.
    Prefill,
    /// All steps after it.
    Decode,
}

/// What became of a time.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Change {
    /// The combination, which both sweeps have.
    #[serde(flatten)]
    pub key: Key,
    /// What the times are of.
    pub measure: Measure,
    /// Of the first sweep.
    pub before: Time,
    /// Of the second.
    pub after: Time,
    /// The median after, divided by that before, less 1: below 0 is faster.
    pub change: f64,
    /// Whether both have runs enough for it, and their ranges from p10 to p90 have no value in common.
    pub exceeds_noise: bool,
}

/// Runs that a range takes: of fewer it is hardly wider than their difference.
const RUNS: usize = 3;

impl Measure {
    /// In the order of a table.
    pub const ALL: [Self; 3] = [Self::Generation, Self::Prefill, Self::Decode];

    /// `generation`, `prefill`, `decode`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generation => "generation",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }

    /// That time of a cell.
    pub fn of(self, cell: &CellSummary) -> &Time {
        match self {
            Self::Generation => &cell.generation,
            Self::Prefill => &cell.prefill.time,
            Self::Decode => &cell.decode.time,
        }
    }
}

/// The changes of all combinations that both have, in the order of the second.
pub fn changes(before: &[CellSummary], after: &[CellSummary]) -> Vec<Change> {
    let pairs = after.iter().filter_map(|after: &CellSummary| {
        before.iter().find(|before| before.key == after.key).map(|before| (before, after))
    });
    pairs.flat_map(|pair| Measure::ALL.map(|measure| Change::new(measure, pair))).collect()
}

impl Change {
    fn new(measure: Measure, (before, after): (&CellSummary, &CellSummary)) -> Self {
        let key = after.key.clone();
        let enough = before.runs.min(after.runs) >= RUNS;
        let (before, after) = (*measure.of(before), *measure.of(after));
        Self {
            key,
            measure,
            before,
            after,
            change: after.ms.median / before.ms.median - 1.0,
            exceeds_noise: enough && !before.ms.overlaps(&after.ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cell, results::made_up, summaries};

    #[test]
    fn noise_is_no_change_and_a_change_is_one() {
        let before = made_up::results();
        let mut after = before.clone();
        for ms in &mut after.cells[0].prefill_ms {
            *ms *= 0.25;
        }
        after.cells[0].decode_ms[0] *= 1.05;
        after.cells[1].key.implementation = "another".to_owned();
        let changes = changes(&summaries(&before), &summaries(&after));
        assert_eq!(changes.len(), 3, "of the one cell that both have");
        let of = |measure| changes.iter().find(|change| change.measure == measure).unwrap();
        let prefill = of(Measure::Prefill);
        assert_eq!((prefill.change, prefill.exceeds_noise), (-0.75, true));
        assert!(!of(Measure::Decode).exceeds_noise);
        assert_eq!(of(Measure::Generation).change, 0.0);
    }

    #[test]
    fn two_runs_show_no_range() {
        let before = made_up::results();
        let mut after = before.clone();
        let Cell { generation_ms, prefill_ms, decode_ms, .. } = &mut after.cells[0];
        for ms in [generation_ms, prefill_ms, decode_ms] {
            *ms = vec![0.5, 0.5];
        }
        let changes = changes(&summaries(&before), &summaries(&after));
        assert!(changes.iter().all(|change| !change.exceeds_noise), "{changes:?}");
    }
}
