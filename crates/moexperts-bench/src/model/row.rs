//! A row: what one backend did with one batch of prompts.

use moexperts::{DType, LanguageModel};
use moexperts_report::Statistics;
use serde::Serialize;

use super::cell::Measured;
use crate::{
    generation::Variant,
    hardware::{Hardware as _, device_name, device_of},
    output::{
        table::Column,
        text::{bytes, digits, percent, rounded},
    },
};

/// As the JSON file has it.
#[derive(Debug, Serialize)]
pub(crate) struct ModelRow {
    model: String,
    dtype: Option<&'static str>,
    device: String,
    /// None of a GPU.
    threads: Option<usize>,
    batch: usize,
    prompt_tokens: usize,
    new_tokens: usize,
    implementation: String,
    /// `none`, or the mode.
    compile: String,
    load_s: f64,
    prefill_tok_per_s: f64,
    decode_tok_per_s: f64,
    decode_gb_per_s: f64,
    limit_gb_per_s: f64,
    peak_memory_bytes: Option<u64>,
}

/// What a row is about, beside the measurement.
pub(crate) struct Subject<'a> {
    pub(crate) model: &'a LanguageModel,
    pub(crate) load_seconds: f64,
    pub(crate) batch: usize,
    pub(crate) prompt_tokens: usize,
    pub(crate) new_tokens: usize,
    /// Bytes of weights that all decode steps read.
    pub(crate) decode_bytes: f64,
}

impl ModelRow {
    /// - `bandwidth`: bytes the machine reads a second
    pub(crate) fn new(subject: &Subject<'_>, measured: &Measured<'_>, bandwidth: f64) -> Self {
        let Subject { model, load_seconds, batch, prompt_tokens, new_tokens, decode_bytes } =
            *subject;
        let prefill = Statistics::of(&measured.prefill_seconds).median;
        let decode = Statistics::of(&measured.decode_seconds).median;
        // The first new token of each sequence comes with the prompt.
        let decoded = batch * (new_tokens - 1);
        Self {
            model: model.origin().to_owned(),
            dtype: model.dtype().map(DType::name),
            device: device_name(model.device_name()),
            threads: device_of(model).threads(),
            batch,
            prompt_tokens,
            new_tokens,
            implementation: measured.variant.backend.clone(),
            compile: measured.variant.compile.to_string(),
            load_s: rounded(load_seconds),
            prefill_tok_per_s: rounded((batch * prompt_tokens) as f64 / prefill),
            decode_tok_per_s: rounded(decoded as f64 / decode),
            decode_gb_per_s: rounded(decode_bytes / decode / 1e9),
            limit_gb_per_s: rounded(bandwidth / 1e9),
            peak_memory_bytes: measured.peak_memory_bytes,
        }
    }

    /// The columns of the table, for these variants.
    pub(crate) fn columns(variants: &[Variant]) -> Vec<Column> {
        let backends = variants.iter().map(|variant| variant.backend.as_str());
        vec![
            Column::words("implementation", backends),
            Column::words("compile", variants.iter().map(|variant| variant.compile.to_string())),
            Column::number("batch", 0),
            Column::number("prompt", 0),
            Column::number("new", 0),
            Column::number("prefill tok/s", 0),
            Column::number("decode tok/s", 0),
            Column::number("decode GB/s", 0),
            Column::number("of limit", 0),
            Column::number("peak memory", 0),
        ]
    }

    /// The texts of those columns.
    pub(crate) fn cells(&self) -> Vec<String> {
        vec![
            self.implementation.clone(),
            self.compile.clone(),
            self.batch.to_string(),
            self.prompt_tokens.to_string(),
            self.new_tokens.to_string(),
            digits(self.prefill_tok_per_s),
            digits(self.decode_tok_per_s),
            digits(self.decode_gb_per_s),
            percent(self.decode_gb_per_s / self.limit_gb_per_s),
            self.peak_memory_bytes.map_or("-".to_owned(), bytes),
        ]
    }
}
