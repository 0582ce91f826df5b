//! The commands on a GPU, which is an emulated one unless the tests are given another.

use std::{fs, time::Instant};

use clap::Parser as _;
use moexperts::{Cpu, CpuOptions, Cuda, DeviceName};
use moexperts_cuda_emulator::{EmulatorOptions, test_devices};
use moexperts_report::Results;
use safetensors::SafeTensors;
use serde_json::Value;

use super::{
    bench::{
        self,
        sweep::{Folder, Sweep},
    },
    generate, inspect, logits,
};
use crate::{
    args::{Args, BenchCommand, Command, DTypeArg},
    commands::load_model,
    hardware::Hardware as _,
    summary::executed,
};

/// A random model in f32.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/qwen2_moe");

/// One with little memory, so that little is measured.
fn gpu() -> Cuda {
    gpu_of(64 << 20)
}

fn gpu_of(memory_bytes: u64) -> Cuda {
    let options =
        EmulatorOptions { multiprocessors: 4, memory_bytes, ..EmulatorOptions::default() };
    let (_, gpu) = test_devices(&[options]).pop().expect("a device for the options");
    gpu
}

fn cpu() -> Cpu {
    Cpu::new(CpuOptions::default()).unwrap()
}

fn parse(words: &[&str]) -> Command {
    Args::parse_from([&["moexperts"], words, &["--model", MODEL]].concat()).command
}

#[test]
fn logits_are_those_of_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("logits.safetensors");
    let words = ["logits", "--token-ids", "5,3,8,1", "--output", file.to_str().unwrap()];
    let Command::Logits(args) = parse(&words) else { panic!() };
    let read = || {
        let bytes = fs::read(&file).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let logits = tensors.tensor("logits").unwrap();
        let values = logits.data().as_chunks().0.iter().map(|&value| f32::from_le_bytes(value));
        values.collect::<Vec<f32>>()
    };
    logits::write(&args, &[], gpu()).unwrap();
    let got = read();
    logits::write(&args, &[], cpu()).unwrap();
    let expected = read();
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    for (got, expected) in got.iter().zip(&expected) {
        assert!((got - expected).abs() <= 1e-4 * largest, "{got}, expected {expected}");
    }
}

#[test]
fn text_is_written_and_the_backend_that_decodes_is_shown() {
    let words = ["generate", "x", "--max-new-tokens", "3", "--temperature", "0"];
    let Command::Generate(args) = parse(&words) else { panic!() };
    let input = generate::Input { prompt: "x".to_owned(), images: Vec::new(), frames: Vec::new() };
    generate::generate(&args, input, gpu(), Instant::now()).unwrap();

    let model = load_model(gpu(), &args.model).unwrap();
    assert_eq!(executed(&model, true), "grouped_mm, decode batched_mm");
    assert_eq!(executed(&model, false), "grouped_mm");
    model.set_experts_implementation("eager").unwrap();
    assert_eq!(executed(&model, true), "eager");
    let summary = model.device().summary();
    assert!(summary.starts_with("CUDA, ") && summary.ends_with(" in use"), "{summary}");
    assert_eq!(executed(&load_model(cpu(), &args.model).unwrap(), true), "grouped_mm");
}

#[test]
fn a_gpu_is_inspected() {
    let Command::Inspect(args) = parse(&["inspect", "--compile", "default"]) else { panic!() };
    assert_eq!(args.model.load.device.device, DeviceName::Auto);
    inspect::inspect(&args, &cpu(), gpu()).unwrap();
}

#[test]
fn a_model_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.json");
    let words = ["bench", "model", "--prompt-tokens", "3", "--new-tokens", "4", "--batch", "2"];
    let rest = ["--repetitions", "1", "--compile", "none,reduce-overhead", "--json"];
    let words = [&words[..], &rest, &[file.to_str().unwrap()]].concat();
    let Command::Bench(BenchCommand::Model(args)) = parse(&words) else { panic!() };
    bench::model::bench(&args, gpu(), Instant::now()).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(rows.len(), 6);
    for row in rows {
        assert_eq!((&row["device"], &row["threads"]), (&"cuda".into(), &Value::Null), "{row}");
        for key in ["prefill_tok_per_s", "decode_tok_per_s", "decode_gb_per_s", "limit_gb_per_s"] {
            assert!(row[key].as_f64().unwrap() > 0.0, "{key}: {row}");
        }
        assert!(row["peak_memory_bytes"].as_u64().unwrap() > 1 << 17, "{row}");
    }
}

#[test]
fn a_sweep_says_what_decodes_and_goes_on_on_another_device() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["bench", "sweep", "--seq", "3", "--new-tokens", "4", "--batch", "2"];
    let rest = ["--repetitions", "2", "--resume", "--out", folder.path().to_str().unwrap()];
    let Command::Bench(BenchCommand::Sweep(args)) = parse(&[&words[..], &rest].concat()) else {
        panic!()
    };
    let sweep = || {
        let folder = Folder::open(folder.path(), args.resume).unwrap();
        Sweep::new(&args, &[], folder).unwrap()
    };
    let auto = DTypeArg::Auto;
    sweep().finish_with(|sweep| sweep.target(gpu_of(4 << 20), DeviceName::Cuda(2), auto)).unwrap();
    sweep().finish_with(|sweep| sweep.target(cpu(), DeviceName::Auto, auto)).unwrap();

    let results = Results::read(&folder.path().join("results.json")).unwrap();
    let decoding = results.cells.iter().map(|cell| {
        let key = &cell.key;
        (&*key.device, &*key.implementation, &*cell.decode_implementation)
    });
    let expected = [
        ("cuda:2", "eager", "eager"),
        ("cuda:2", "batched_mm", "batched_mm"),
        ("cuda:2", "grouped_mm", "batched_mm"),
        ("cpu", "eager", "eager"),
        ("cpu", "batched_mm", "batched_mm"),
        ("cpu", "grouped_mm", "grouped_mm"),
    ];
    assert_eq!(decoding.collect::<Vec<_>>(), expected);
    let threads: Vec<bool> =
        results.targets.iter().map(|target| target.threads.is_some()).collect();
    assert_eq!(threads, [false, true]);
    assert!(results.cells.iter().all(|cell| cell.runs() == 2 && cell.peak_memory_bytes.is_some()));
    let [gpu, cpu] = [0, 3].map(|cell| &results.cells[cell]);
    assert_eq!((gpu.prefill, gpu.decode), (cpu.prefill, cpu.decode), "the same work");
}
