//! The commands on a GPU, which is an emulated one unless the tests are given another.

use std::{fs, time::Instant};

use clap::Parser as _;
use moexperts::{AnyDevice, Cpu, CpuOptions, DeviceName};
use moexperts_bench::hardware::Hardware as _;
use moexperts_cuda_emulator::{EmulatorOptions, test_devices};
use safetensors::SafeTensors;

use super::{generate, inspect, logits};
use crate::{
    args::{Args, Command},
    commands::load_model,
    summary::executed,
};

/// A random model in f32.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/qwen2_moe");

/// One with little memory, so that little is measured.
fn gpu() -> AnyDevice {
    let options = EmulatorOptions {
        multiprocessors: 4,
        memory_bytes: 64 << 20,
        ..EmulatorOptions::default()
    };
    let (_, gpu) = test_devices(&[options]).pop().expect("a device for the options");
    gpu.into()
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
    logits::write(&args, &[], cpu().into()).unwrap();
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
    let input = generate::Input { prompt: Some("x".to_owned()), ..generate::Input::default() };
    generate::generate(&args, input, gpu(), Instant::now()).unwrap();

    let model = load_model(gpu(), &args.model).unwrap();
    assert_eq!(executed(&model, true), "grouped_mm, decode batched_mm");
    assert_eq!(executed(&model, false), "grouped_mm");
    model.set_experts_implementation("eager").unwrap();
    assert_eq!(executed(&model, true), "eager");
    let summary = model.device().unwrap().summary();
    assert!(summary.starts_with("CUDA, ") && summary.ends_with(" in use"), "{summary}");
    assert_eq!(executed(&load_model(cpu().into(), &args.model).unwrap(), true), "grouped_mm");
}

#[test]
fn a_gpu_is_inspected() {
    let Command::Inspect(args) = parse(&["inspect", "--compile", "default"]) else { panic!() };
    assert_eq!(args.model.load.device.device, DeviceName::Auto);
    inspect::inspect(&args, &cpu(), &gpu()).unwrap();
}
