//! Figures that transformers' authors published of their backends, on hardware of theirs.

use serde::{Deserialize, Serialize};

use crate::Measure;

/// The model of all of them.
const MODEL: &str = "Qwen/Qwen1.5-MoE-A2.7B";

/// Its weights.
const DTYPE: &str = "bf16";

/// What the sources call MB: the model's weights take 28.6e9 bytes, and they say 27 300.
const MIB: f64 = (1 << 20) as f64;

/// A time somebody published.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Published {
    /// Who published it.
    pub source: &'static str,
    /// Where.
    pub url: &'static str,
    /// On what it was measured.
    pub hardware: &'static str,
    /// The model.
    pub model: &'static str,
    /// The weights' element type.
    pub dtype: &'static str,
    /// Sequences together.
    pub batch: usize,
    /// Tokens of each prompt.
    pub sequence: usize,
    /// Tokens generated for each; none where the prompt alone was measured.
    pub new_tokens: Option<usize>,
    /// `none`, or the mode.
    pub compile: String,
    /// The backend.
    pub implementation: String,
    /// What the time is of.
    pub measure: Measure,
    /// Milliseconds. Where a source gives one number and does not say which, it stands here.
    pub mean: f64,
    /// Milliseconds.
    pub median: Option<f64>,
    /// Milliseconds.
    pub p90: Option<f64>,
    /// The most memory of the GPU.
    pub peak_memory_bytes: Option<u64>,
}

/// A line of `prefill.csv`: the table of the pull request that brought the backends. Its `compile`
/// column says True where `default` stands here.
#[derive(Debug, Deserialize)]
struct PrefillRow {
    batch: usize,
    sequence: usize,
    compile: String,
    implementation: String,
    mean_ms: f64,
    median_ms: f64,
    p90_ms: f64,
    peak_mib: f64,
}

/// A line of `generation.csv`: of the data set behind the documentation's page.
#[derive(Debug, Deserialize)]
struct GenerationRow {
    batch: usize,
    sequence: usize,
    new_tokens: usize,
    compile: String,
    implementation: String,
    generation_ms: f64,
    prefill_ms: f64,
    decode_ms: f64,
    peak_mib: Option<f64>,
}

/// All of them.
pub fn published() -> Vec<Published> {
    let prefill: Vec<PrefillRow> = rows(include_str!("published/prefill.csv"));
    let generation: Vec<GenerationRow> = rows(include_str!("published/generation.csv"));
    let prefill = prefill.into_iter().map(Published::from);
    prefill.chain(generation.into_iter().flat_map(GenerationRow::times)).collect()
}

fn rows<T: for<'a> Deserialize<'a>>(text: &str) -> Vec<T> {
    let mut reader = ::csv::Reader::from_reader(text.as_bytes());
    reader.deserialize().map(|row| row.expect("the file is part of the program")).collect()
}

impl From<PrefillRow> for Published {
    fn from(row: PrefillRow) -> Self {
        Self {
            source: "transformers, pull request 42697",
            url: "https://github.com/huggingface/transformers/pull/42697",
            hardware: "NVIDIA A100",
            model: MODEL,
            dtype: DTYPE,
            batch: row.batch,
            sequence: row.sequence,
            new_tokens: None,
            compile: row.compile,
            implementation: row.implementation,
            measure: Measure::Prefill,
            mean: row.mean_ms,
            median: Some(row.median_ms),
            p90: Some(row.p90_ms),
            peak_memory_bytes: Some((row.peak_mib * MIB) as u64),
        }
    }
}

impl GenerationRow {
    fn times(self) -> [Published; 3] {
        let Self { generation_ms, prefill_ms, decode_ms, .. } = self;
        [
            (Measure::Generation, generation_ms),
            (Measure::Prefill, prefill_ms),
            (Measure::Decode, decode_ms),
        ]
        .map(|(measure, mean)| Published {
            source: "data set docs-benchmarks/experts-backends",
            url: "https://huggingface.co/datasets/docs-benchmarks/experts-backends",
            hardware: "a GPU the source does not name",
            model: MODEL,
            dtype: DTYPE,
            batch: self.batch,
            sequence: self.sequence,
            new_tokens: Some(self.new_tokens),
            compile: self.compile.clone(),
            implementation: self.implementation.clone(),
            measure,
            mean,
            median: None,
            p90: None,
            peak_memory_bytes: self.peak_mib.map(|mib| (mib * MIB) as u64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_those_of_the_sources() {
        let all = published();
        assert_eq!(all.len(), 36 + 3 * 36);
        let best = all
            .iter()
            .filter(|row| row.hardware == "NVIDIA A100" && (row.batch, row.sequence) == (1, 16))
            .min_by(|a, b| a.mean.total_cmp(&b.mean))
            .unwrap();
        assert_eq!(
            (best.implementation.as_str(), best.compile.as_str(), best.mean, best.p90),
            ("batched_mm", "max-autotune-no-cudagraphs", 23.87, Some(24.02))
        );
        let of_data_set = |row: &&Published| {
            row.new_tokens == Some(64)
                && (row.batch, row.sequence, row.measure) == (4, 128, Measure::Decode)
                && (row.compile.as_str(), row.implementation.as_str()) == ("none", "eager")
        };
        assert_eq!(all.iter().find(of_data_set).unwrap().mean, 6752.7);
    }
}
