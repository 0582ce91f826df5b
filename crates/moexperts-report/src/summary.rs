//! What is said of a cell: its times, its rates, and the fraction of what the machine can do.

use serde::Serialize;

use crate::{Cell, Key, Results, Statistics, Target, Work};

/// A combination, summed up.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CellSummary {
    /// The combination.
    #[serde(flatten)]
    pub key: Key,
    /// The backend that decoded.
    pub decode_implementation: String,
    /// Generations that were measured.
    pub runs: usize,
    /// From the prompt to the last token.
    pub generation: Time,
    /// To the first token.
    pub prefill: Phase,
    /// All steps after it.
    pub decode: Phase,
    /// The most memory in use, where the system tells it.
    pub peak_memory_bytes: Option<u64>,
}

/// How long something took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Time {
    /// Milliseconds.
    #[serde(flatten)]
    pub ms: Statistics,
    /// Of the median. Of prefill prompt tokens count, of decode those it made, of generation all new
    /// ones.
    pub tokens_per_second: f64,
    /// The least time the target could do it in, divided by the median. The least time is that to read
    /// the weights or to do the products, whichever is longer, of prefill and of decode.
    pub fraction_of_limit: f64,
}

/// A phase of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Phase {
    /// All its forwards together.
    #[serde(flatten)]
    pub time: Time,
    /// What they had to do.
    #[serde(flatten)]
    pub work: Work,
}

/// Sums up every cell of some results.
pub fn summaries(results: &Results) -> Vec<CellSummary> {
    let summary = |cell: &Cell| {
        let target = results.target(&cell.key).expect("results that were read have the target");
        CellSummary::new(cell, &Limits::of(target))
    };
    results.cells.iter().map(summary).collect()
}

/// What a target can do at most.
struct Limits {
    bytes_per_second: f64,
    flops_per_second: f64,
}

impl Limits {
    fn of(target: &Target) -> Self {
        Self {
            bytes_per_second: Statistics::of(&target.bytes_per_second).median,
            flops_per_second: Statistics::of(&target.flops_per_second).median,
        }
    }

    fn least_ms(&self, work: &Work) -> f64 {
        1e3 * (work.bytes / self.bytes_per_second).max(work.flops / self.flops_per_second)
    }
}

impl CellSummary {
    fn new(cell: &Cell, limits: &Limits) -> Self {
        let Key { batch, sequence, new_tokens, .. } = cell.key;
        let least = [limits.least_ms(&cell.prefill), limits.least_ms(&cell.decode)];
        // In f64, where no file can make them overflow.
        let [batch, sequence, new_tokens] = [batch, sequence, new_tokens].map(|count| count as f64);
        let decoded = batch * (new_tokens - 1.0);
        let prefill = Time::new(&cell.prefill_ms, batch * sequence, least[0]);
        let decode = Time::new(&cell.decode_ms, decoded, least[1]);
        Self {
            key: cell.key.clone(),
            decode_implementation: cell.decode_implementation.clone(),
            runs: cell.runs(),
            generation: Time::new(&cell.generation_ms, batch * new_tokens, least[0] + least[1]),
            prefill: Phase { time: prefill, work: cell.prefill },
            decode: Phase { time: decode, work: cell.decode },
            peak_memory_bytes: cell.peak_memory_bytes,
        }
    }
}

impl Time {
    fn new(ms: &[f64], tokens: f64, least_ms: f64) -> Self {
        let ms = Statistics::of(ms);
        Self {
            ms,
            tokens_per_second: 1e3 * tokens / ms.median,
            fraction_of_limit: least_ms / ms.median,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::made_up;

    #[test]
    fn a_cell_by_hand() {
        let results = made_up::results();
        let all = summaries(&results);
        let CellSummary { generation, prefill, decode, runs, .. } = all[0];
        // Batch 2, sequence 8, 5 new tokens; 10 GB/s and 100 GFLOP/s.
        assert_eq!(runs, 3);
        assert_eq!((generation.ms.median, generation.ms.mean), (10.0, 11.0));
        assert_eq!(generation.tokens_per_second, 1000.0);
        assert_eq!((prefill.time.ms.median, prefill.time.tokens_per_second), (4.0, 4000.0));
        // The products take 2 ms and the weights 1.
        assert_eq!(prefill.time.fraction_of_limit, 0.5);
        assert_eq!((decode.time.ms.median, decode.time.tokens_per_second), (6.0, 8000.0 / 6.0));
        // The weights take 3 ms and the products less.
        assert_eq!(decode.time.fraction_of_limit, 0.5);
        assert_eq!(generation.fraction_of_limit, 0.5);
    }
}
