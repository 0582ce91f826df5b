//! What a generation took: time, memory, and what it ran on.

use std::{collections::BTreeMap, fmt, time::Duration};

use moexperts::{
    FinishReason, GenerationStats, LanguageModel, inspect::ProcessMemory, units::counted,
};
use moexperts_bench::{hardware::Hardware, output::text::bytes};

/// The lines after a generation.
#[derive(Debug)]
pub(crate) struct Summary<'a> {
    pub(crate) model: &'a LanguageModel,
    pub(crate) load: Duration,
    pub(crate) stats: GenerationStats,
    /// Why the text ended.
    pub(crate) finish: Option<FinishReason>,
    /// As in the options of the generation.
    pub(crate) decode_switch: bool,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, load, stats, finish, decode_switch } = self;
        writeln!(f, "load     {:.3} s, {}", load.as_secs_f64(), model.origin())?;
        if stats.patches > 0 {
            let seconds = stats.vision.as_secs_f64();
            writeln!(f, "vision   {} patches in {seconds:.3} s", stats.patches)?;
        }
        writeln!(f, "prompt   {}", rate(stats.prompt_tokens, stats.prefill))?;
        writeln!(f, "decode   {}", rate(stats.decoded_tokens, stats.decode))?;
        if let Some(reason) = finish {
            writeln!(f, "ended    {}", ended(*reason))?;
        }
        if let Some(memory) = ProcessMemory::now() {
            writeln!(f, "memory   {}", taken(memory))?;
        }
        if let Some(device) = model.device() {
            writeln!(f, "device   {}", device.summary())?;
        }
        writeln!(f, "experts  {}", executed(model, *decode_switch))
    }
}

/// Why a text ended, for people.
pub(crate) fn ended(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::EndOfSequence => "an end token",
        FinishReason::StopString => "a stop string",
        FinishReason::MaxNewTokens => "the limit of --max-new-tokens",
        FinishReason::MaxLength => "the limit of max_length",
        FinishReason::MaxTime => "the limit of max_time",
        FinishReason::Context => "the length that the model was trained for",
        _ => "a limit of the generation",
    }
}

/// `31 tokens in 0.120 s, 258.3 tok/s`.
fn rate(tokens: usize, time: Duration) -> String {
    if tokens == 0 {
        return "no tokens".to_owned();
    }
    let seconds = time.as_secs_f64();
    let per_second = tokens as f64 / seconds.max(f64::MIN_POSITIVE);
    format!("{} in {seconds:.3} s, {per_second:.1} tok/s", counted(tokens, "token"))
}

/// The backend, or the backend of each backbone where there are several.
pub(crate) fn backends(names: &BTreeMap<String, String>) -> String {
    let named = |(key, name): (&String, &String)| match key.as_str() {
        "" => name.clone(),
        key => format!("{key}={name}"),
    };
    names.iter().map(named).collect::<Vec<_>>().join(", ")
}

/// What runs the experts: the backends, and another one if that decodes.
pub(crate) fn executed(model: &LanguageModel, decode_switch: bool) -> String {
    let names = model.experts_implementation();
    let all = backends(&names);
    // The part that decodes is the one that writes text.
    let prefill = names.get(model.spec().backbone).map_or("", String::as_str);
    let device = model.device();
    match device.as_ref().map_or(prefill, |device| device.decode_experts(prefill)) {
        decode if decode != prefill && decode_switch => format!("{all}, decode {decode}"),
        _ => all,
    }
}

/// What a process takes.
fn taken(memory: ProcessMemory) -> String {
    let ProcessMemory { peak_bytes, own_bytes, mapped_bytes } = memory;
    let [peak, own, mapped] = [peak_bytes, own_bytes, mapped_bytes].map(bytes);
    format!("peak {peak}; at the end {own} allocated and {mapped} of mapped files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_shown_by_whose_it_is() {
        let memory =
            ProcessMemory { peak_bytes: 2_048_000, own_bytes: 512_000, mapped_bytes: 1_024_000 };
        assert_eq!(
            taken(memory),
            "peak 2.05 MB; at the end 512 kB allocated and 1.02 MB of mapped files"
        );
    }

    #[test]
    fn a_rate_needs_tokens() {
        assert_eq!(rate(0, Duration::ZERO), "no tokens");
        assert_eq!(rate(1, Duration::from_millis(500)), "1 token in 0.500 s, 2.0 tok/s");
    }

    #[test]
    fn names_the_backbones_where_they_have_names() {
        let names = |pairs: &[(&str, &str)]| {
            let owned = pairs.iter().map(|(key, name)| ((*key).to_owned(), (*name).to_owned()));
            backends(&owned.collect())
        };
        assert_eq!(names(&[("", "eager")]), "eager");
        let both = [("text_config", "eager"), ("vision_config", "grouped_mm")];
        assert_eq!(names(&both), "text_config=eager, vision_config=grouped_mm");
    }
}
