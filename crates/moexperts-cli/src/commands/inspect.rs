//! `moexperts inspect`: the machine, the backends, the kernels, the environment and a model.

mod backends;
mod environment;

use std::num::NonZero;

use moexperts::{
    DType, LanguageModel,
    cpu::{
        Cpu, Isa,
        limits::{ReadBandwidth, read_bandwidth},
        product::Kernel,
    },
    model::VisionSpec,
};

use super::{compile, load_model, print};
use crate::{
    args::InspectArgs,
    error::CliError,
    machine::Memory,
    summary::{self, bytes, counted},
};

pub(super) fn run(args: &InspectArgs) -> Result<(), CliError> {
    let model = load_model(&args.model)?;
    let cpu = model.device();
    let memory = Memory::now();
    let bandwidth = read_bandwidth(cpu, memory.as_ref().map(|memory| memory.available));
    let sections = [
        ("Machine", machine(cpu, memory, &bandwidth)),
        ("Experts backends", backends::support(cpu)),
        ("Kernels by dtype of the weights, the best first", kernels(cpu)),
        ("Environment", environment::variables()),
        ("Model", describe(&model, &bandwidth)),
    ];
    print(&sections.map(|(title, lines)| format!("{title}\n{lines}")).join("\n"))?;
    let counts = |given: &[NonZero<usize>], default| match given {
        [] => vec![default],
        given => given.iter().map(|count| count.get()).collect(),
    };
    let (batch, prompt) = (counts(&args.batch, 1), counts(&args.prompt_tokens, PROMPT_TOKENS));
    compile(&model, &args.compile, batch, prompt)?;
    match model.explain() {
        Some(explanation) => print(&format!("\nPlans\n{explanation}\n")),
        None => Ok(()),
    }
}

/// Tokens of the prompt that a plan is shown for if nothing is said.
const PROMPT_TOKENS: usize = 128;

/// Lines of a name and what is to say of it, in two columns.
fn table<S: AsRef<str>>(rows: impl IntoIterator<Item = (S, String)>) -> String {
    let rows: Vec<(S, String)> = rows.into_iter().collect();
    let width = rows.iter().map(|(name, _)| name.as_ref().len()).max().unwrap_or(0);
    rows.iter().map(|(name, text)| format!("  {:width$}  {text}\n", name.as_ref())).collect()
}

fn listed(names: impl IntoIterator<Item = impl ToString>) -> String {
    names.into_iter().map(|name| name.to_string()).collect::<Vec<_>>().join(", ")
}

fn machine(cpu: &Cpu, memory: Option<Memory>, bandwidth: &ReadBandwidth) -> String {
    let mut rows = Vec::new();
    if let Some(name) = Cpu::processor() {
        rows.push(("processor", name));
    }
    rows.push(("instruction set", format!("{} of {}", cpu.isa(), listed(Isa::available()))));
    rows.push(("threads", cpu.thread_count().to_string()));
    if let Some(Memory { total, available }) = memory {
        rows.push(("memory", format!("{}, {} available", bytes(total), bytes(available))));
    }
    let gigabytes = bandwidth.bytes_per_second / 1e9;
    let (threads, buffer) = (counted(bandwidth.threads, "thread"), bytes(bandwidth.buffer_bytes));
    let measured = format!("{gigabytes:.1} GB/s, measured with {threads} over {buffer}");
    rows.push(("read bandwidth", measured));
    table(rows)
}

fn kernels(cpu: &Cpu) -> String {
    let row = |dtype: DType| {
        let used = Kernel::select(cpu.isa(), dtype).isa();
        let kernels = Kernel::all().filter(|kernel| kernel.weights() == dtype).map(|kernel| {
            let inputs = match kernel.inputs() {
                DType::F32 => String::new(),
                rounded => format!(" (rounds inputs to {rounded})"),
            };
            let mark = if kernel.isa() == used { "*" } else { "" };
            format!("{}{mark}{inputs}", kernel.isa())
        });
        (dtype.name(), listed(kernels))
    };
    table(DType::ALL.map(row)) + "  * in use\n"
}

fn describe(model: &LanguageModel, bandwidth: &ReadBandwidth) -> String {
    let spec = model.spec();
    let attention = spec.attention;
    let mut rows = vec![
        ("origin", model.origin().to_owned()),
        ("family", spec.model_type.clone()),
        ("layers", format!("{}, {} with experts", spec.layers.len(), spec.moe_layers().count())),
        ("hidden size (H)", spec.hidden_size.to_string()),
    ];
    if let Some(moe) = spec.moe_layers().next() {
        let shared = moe.shared_expert.map(|shared| shared.intermediate_size);
        let shared = shared.map_or(String::new(), |width| format!(", the shared one {width}"));
        rows.extend([
            ("expert width (I)", format!("{}{shared}", moe.moe_intermediate_size)),
            ("experts (E)", moe.num_experts.to_string()),
            ("experts a token (K)", moe.router.top_k.to_string()),
        ]);
    }
    let [heads, kv_heads, width] = [attention.heads, attention.kv_heads, attention.head_dim];
    rows.extend([
        ("heads", format!("{heads} for queries, {kv_heads} for keys and values, {width} wide")),
        ("vocabulary (V)", spec.vocab_size.to_string()),
        ("context", counted(spec.max_position_embeddings, "token")),
        ("experts backend", summary::backends(&model.experts_implementation())),
    ]);
    if let Some(tower) = model.vision_tower() {
        rows.extend(vision(tower.spec()));
    }
    rows.extend(weights(model, bandwidth));
    table(rows)
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

fn weights(model: &LanguageModel, bandwidth: &ReadBandwidth) -> Vec<(&'static str, String)> {
    let (spec, report) = (model.spec(), model.load_report());
    let vision = model.vision_tower().map_or(0, |tower| tower.spec().total_weights());
    let [total, active] = [spec.total_weights() + vision, spec.active_weights()].map(parameters);
    let [in_place, converted] =
        [report.in_place_bytes, report.converted_bytes].map(|count| bytes(count as u64));
    let mut rows = vec![
        ("parameters", format!("{total}, {active} active for a token")),
        ("weights", format!("{in_place} used in place, {converted} converted")),
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
