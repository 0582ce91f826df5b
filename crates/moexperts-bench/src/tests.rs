//! The benchmarks on a GPU, which is an emulated one unless the tests are given another.

use std::{fs, time::Instant};

use clap::Parser;
use moexperts::{Cpu, CpuOptions, Cuda, DeviceName, Error};
use moexperts_cuda_emulator::{EmulatorOptions, test_devices};
use moexperts_report::Results;
use serde_json::Value;

use crate::{
    args::{BenchCommand, DTypeArg},
    error::BenchError,
    model,
    sweep::{Folder, Sweep},
    vision,
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

/// The words after `moexperts bench`.
#[derive(Parser)]
struct Words {
    #[command(subcommand)]
    command: BenchCommand,
}

fn parse(words: &[&str]) -> BenchCommand {
    Words::parse_from([&["bench"], words, &["--model", MODEL]].concat()).command
}

/// For command lines that name a model.
fn no_default() -> Result<moexperts::files::ModelFiles, moexperts::Error> {
    panic!("the model is named")
}

#[test]
fn a_model_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.json");
    let words = ["model", "--prompt-tokens", "3", "--new-tokens", "4", "--batch", "2"];
    let rest = ["--repetitions", "1", "--compile", "none,reduce-overhead", "--json"];
    let words = [&words[..], &rest, &[file.to_str().unwrap()]].concat();
    let BenchCommand::Model(args) = parse(&words) else { panic!() };
    model::bench(&args, gpu().into(), Instant::now(), no_default).unwrap();
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
fn a_model_without_a_vision_tower_is_refused() {
    let BenchCommand::Vision(args) = parse(&["vision"]) else { panic!() };
    let error = vision::bench(&args, cpu().into(), no_default).unwrap_err();
    assert!(matches!(error, BenchError::Model(Error::TextOnly { .. })), "{error}");
}

#[test]
fn a_sweep_says_what_decodes_and_goes_on_on_another_device() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["sweep", "--seq", "3", "--new-tokens", "4", "--batch", "2"];
    let rest = ["--repetitions", "2", "--resume", "--out", folder.path().to_str().unwrap()];
    let BenchCommand::Sweep(args) = parse(&[&words[..], &rest].concat()) else { panic!() };
    let sweep = || {
        let folder = Folder::open(folder.path(), args.resume).unwrap();
        Sweep::new(&args, &[], folder, no_default).unwrap()
    };
    let auto = DTypeArg::Auto;
    sweep()
        .finish_with(|sweep| sweep.target(gpu_of(4 << 20).into(), DeviceName::Cuda(2), auto))
        .unwrap();
    sweep().finish_with(|sweep| sweep.target(cpu().into(), DeviceName::Auto, auto)).unwrap();

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
