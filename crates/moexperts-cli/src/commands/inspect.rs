//! `moexperts inspect`: the machine, its devices, the backends, the kernels, the environment and a
//! model.

mod backends;
mod checkpoint;
mod devices;
mod environment;
mod kernels;

use std::num::NonZero;

use moexperts::{
    AnyDevice, AutoModel, Cpu, Error, LanguageModel,
    blocks::{Mixer, VisionSpec},
    core::DeviceKind,
    inspect::{Machine, Memory},
    model::DecoderSpec,
    units::counted,
};
use moexperts_bench::{
    hardware::{Bandwidth, Hardware as _},
    output::{print, text::bytes},
};

use super::{compile, load_options, open_model};
use crate::{args::InspectArgs, error::CliError, summary};

pub(super) fn run(args: &InspectArgs) -> Result<(), CliError> {
    let device = args.model.load.device.find()?;
    let cpu = match &device {
        AnyDevice::Cpu(cpu) => cpu.clone(),
        _ => Cpu::new(args.model.load.device.cpu()).map_err(Error::from)?,
    };
    inspect(args, &cpu, &device)
}

pub(super) fn inspect(args: &InspectArgs, cpu: &Cpu, device: &AnyDevice) -> Result<(), CliError> {
    // A wrong name should not cost the measurement.
    let files = open_model(&args.model.load.source)?;
    let mut meter = device.meter(None).map_err(Error::from)?;
    let bandwidth = meter.bandwidth().map_err(Error::from)?;
    drop(meter);
    let sections = [
        ("Machine".to_owned(), machine(cpu, device, &bandwidth)),
        ("Devices".to_owned(), devices::list(cpu, device.kind(), args.model.load.device.device)),
        (format!("Experts backends on {}", device.name()), backends::support(device)),
        kernels::section(cpu, device)?,
        ("Environment".to_owned(), environment::variables()),
        ("Checkpoint".to_owned(), checkpoint::stored(&files)),
    ];
    print(&sections.map(|(title, lines)| format!("{title}\n{lines}")).join("\n"))?;
    // Shown before the model is loaded: if that fails, this says why.
    let needed = checkpoint::needed(&files, args.model.load.dtype())?;
    print(&format!("\nLoading\n{needed}"))?;
    let model = AutoModel::from_files_on(device.clone(), files, load_options(&args.model))?;
    print(&format!("\nModel\n{}", describe(&model, &bandwidth)))?;
    let warnings = &model.load_report().warnings;
    if !warnings.is_empty() {
        print(&format!("\nWarnings\n{}", indented(warnings.iter())))?;
    }
    let counts = |given: &[NonZero<usize>], default| match given {
        [] => vec![default],
        given => given.iter().map(|count| count.get()).collect(),
    };
    let (batch, prompt) = (counts(&args.batch, 1), counts(&args.prompt_tokens, PROMPT_TOKENS));
    compile(&model, &args.compile, batch, prompt)?;
    if let Some(explanation) = model.explain() {
        print(&format!("\nPlans\n{explanation}\n"))?;
    }
    Ok(())
}

/// Tokens of the prompt that a plan is shown for if nothing is said.
const PROMPT_TOKENS: usize = 128;

/// Lines of a name and what is to say of it, in two columns.
fn table<S: AsRef<str>>(rows: impl IntoIterator<Item = (S, String)>) -> String {
    let rows: Vec<(S, String)> = rows.into_iter().collect();
    let width = rows.iter().map(|(name, _)| name.as_ref().len()).max().unwrap_or(0);
    rows.iter().map(|(name, text)| format!("  {:width$}  {text}\n", name.as_ref())).collect()
}

fn indented<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.map(|line| format!("  {line}\n")).collect()
}

fn listed(names: impl IntoIterator<Item = impl ToString>) -> String {
    names.into_iter().map(|name| name.to_string()).collect::<Vec<_>>().join(", ")
}

fn machine(cpu: &Cpu, device: &AnyDevice, bandwidth: &Bandwidth) -> String {
    let Machine { processor, isa, isas, threads, memory } = Machine::of(cpu);
    let mut rows = Vec::new();
    if let Some(name) = processor {
        rows.push(("processor", name));
    }
    rows.push(("instruction set", format!("{isa} of {}", listed(isas))));
    rows.push(("threads", threads.to_string()));
    if let Some(Memory { total_bytes, available_bytes }) = memory {
        let [total, available] = [total_bytes, available_bytes].map(bytes);
        rows.push(("memory", format!("{total}, {available} available")));
    }
    rows.extend(device.facts());
    let gigabytes = bandwidth.bytes_per_second / 1e9;
    rows.push(("read bandwidth", format!("{gigabytes:.1} GB/s, {}", bandwidth.measured)));
    table(rows)
}

fn describe(model: &LanguageModel, bandwidth: &Bandwidth) -> String {
    let spec = model.spec();
    let mut rows = vec![
        ("origin", model.origin().to_owned()),
        ("family", spec.model_type.clone()),
        ("layers", format!("{}, {} with experts", spec.layers.len(), spec.moe_layers().count())),
        ("hidden size (H)", spec.hidden_size.to_string()),
    ];
    if let Some(moe) = spec.moe_layers().next() {
        let shared = moe.shared_expert.map(|shared| shared.mlp.intermediate_size);
        let shared = shared.map_or(String::new(), |width| format!(", the shared one {width}"));
        rows.extend([
            ("expert width (I)", format!("{}{shared}", moe.moe_intermediate_size)),
            ("experts (E)", moe.num_experts.to_string()),
            ("experts a token (K)", moe.router.top_k.to_string()),
        ]);
    }
    rows.extend(heads(spec).map(|text| ("heads", text)));
    rows.extend([
        ("vocabulary (V)", spec.vocab_size.to_string()),
        ("context", context(spec)),
        ("experts backend", summary::executed(model, true)),
    ]);
    if let Some(spec) = model.vision() {
        rows.extend(vision(spec));
    }
    rows.extend(weights(model, bandwidth));
    table(rows)
}

/// The length a model was trained for, and the one that the scaling of its rotary embeddings stretches it to.
fn context(spec: &DecoderSpec) -> String {
    let (unscaled, scaled) = (spec.unscaled_length(), spec.trained_length());
    let text = counted(unscaled, "token");
    match scaled == unscaled {
        true => text,
        false => format!("{text}, {scaled} with rope scaling"),
    }
}

/// The heads of the attentions: of each kind of layer, if there are several.
fn heads(spec: &DecoderSpec) -> impl Iterator<Item = String> {
    let mut kinds: Vec<String> = Vec::new();
    for layer in &spec.layers {
        let Mixer::Attention(attention) = &layer.mixer else { continue };
        let [heads, kv_heads] = [attention.heads, attention.kv_heads];
        let width = attention.head_dim;
        let text = format!("{heads} for queries, {kv_heads} for keys and values, {width} wide");
        if !kinds.contains(&text) {
            kinds.push(text);
        }
    }
    kinds.into_iter()
}

fn vision(spec: &VisionSpec) -> [(&'static str, String); 3] {
    let [heads, width, patch] = [spec.heads, spec.hidden_size, spec.patch_size];
    let deepstack = match spec.deepstack_visual_indexes.as_slice() {
        [] => "none".to_owned(),
        indexes => format!("after blocks {}", listed(indexes)),
    };
    let merge = spec.spatial_merge_size;
    let patches = format!(
        "{patch} x {patch} pixels of {}, {merge} x {merge} to a token",
        counted(spec.temporal_patch_size, "frame")
    );
    [
        (spec.backbone, format!("{} blocks, {width} wide, {heads} heads, no experts", spec.depth)),
        ("patches", patches),
        ("deepstack", deepstack),
    ]
}

fn weights(model: &LanguageModel, bandwidth: &Bandwidth) -> Vec<(&'static str, String)> {
    let (spec, report) = (model.spec(), model.load_report());
    let vision = model.vision().map_or(0, VisionSpec::total_weights);
    let [total, active] = [spec.total_weights() + vision, spec.active_weights()].map(parameters);
    let [in_place, converted] =
        [report.in_place_bytes, report.converted_bytes].map(|count| bytes(count as u64));
    let used = match model.device_kind() {
        DeviceKind::Cpu => "used in place",
        DeviceKind::Gpu => "copied as stored",
    };
    let mut rows = vec![
        ("parameters", format!("{total}, {active} active for a token")),
        ("weights", format!("{in_place} {used}, {converted} converted")),
    ];
    if let Some(dtype) = model.dtype() {
        let per_token = spec.bytes_per_token(dtype);
        let bound = bandwidth.bytes_per_second / per_token as f64;
        rows.extend([
            ("reads for a token", format!("{} of {dtype}", bytes(per_token as u64))),
            ("bound", format!("{bound:.1} tok/s for one sequence, all weights read from memory")),
        ]);
    }
    rows
}

/// `14.3 B`, `2.7 M`: as the names of models count them.
fn parameters(count: usize) -> String {
    match count {
        1_000_000_000.. => format!("{:.1} B", count as f64 / 1e9),
        1_000_000.. => format!("{:.1} M", count as f64 / 1e6),
        _ => format!("{:.1} k", count as f64 / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_aligns_its_second_column() {
        let rows = [("a", "1".to_owned()), ("long", "2".to_owned())];
        assert_eq!(table(rows), "  a     1\n  long  2\n");
    }

    #[test]
    fn parameters_have_a_unit() {
        assert_eq!(parameters(14_315_000_000), "14.3 B");
        assert_eq!(parameters(2_700_000), "2.7 M");
        assert_eq!(parameters(31_400), "31.4 k");
    }
}
