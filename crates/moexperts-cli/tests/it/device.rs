//! `--device`.

use std::env;

use moexperts::GenerateOptions;
use moexperts_conformance::skipped;

use crate::program::{BACKENDS, MODEL, Program, Run, model};

/// As of the tests of the other crates: the number of a GPU for them to run on.
const TEST_GPU: &str = "MOEXPERTS_TEST_GPU";

const GENERATE: [&str; 6] =
    ["generate", "the other thing", "--temperature", "0", "--max-new-tokens", "8"];

fn generate(words: &[&str]) -> Run {
    Program::with_model(&[&GENERATE, words].concat()).run()
}

fn expected() -> String {
    let options = GenerateOptions {
        temperature: Some(0.0),
        max_new_tokens: Some(8),
        ..GenerateOptions::default()
    };
    format!("{}\n", model().generate("the other thing", &options).unwrap())
}

#[test]
fn without_a_gpu_auto_is_the_cpu() {
    for words in [&[][..], &["--device", "auto"], &["--device", "cpu"]] {
        let run = generate(words);
        assert_eq!((run.code, &run.stdout), (Some(0), &expected()), "{}", run.stderr);
        assert!(run.stderr.starts_with("load     "), "no word of a GPU: {}", run.stderr);
        assert!(run.stderr.contains("\ndevice   CPU, "), "{}", run.stderr);
    }
    let log = generate(&["-v"]).stderr;
    assert!(
        log.contains(" INFO moexperts::any_device: ") && log.contains("the CPU computes"),
        "{log}"
    );
    let log = generate(&["-v", "--device", "cpu"]).stderr;
    assert!(!log.contains("any_device"), "{log}");
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_of_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("logits.safetensors");
    let logits = ["logits", "--token-ids", "1", "--output", output.to_str().unwrap()];
    for words in [&GENERATE[..], &["chat"], &logits, &["inspect"], &["bench", "model"]] {
        for device in ["cuda", "cuda:99"] {
            let run = Program::with_model(&[words, &["--device", device]].concat()).run();
            assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{words:?}");
            assert!(run.stderr.starts_with("error: CUDA: "), "{words:?}: {}", run.stderr);
            assert_eq!(run.stderr.lines().count(), 1, "{words:?}: {}", run.stderr);
        }
    }
    let layer = Program::new(&["bench", "layer", "--device", "cuda"]).run();
    assert_eq!((layer.code, layer.stdout.as_str()), (Some(1), ""));
    assert!(layer.stderr.starts_with("error: CUDA: "), "{}", layer.stderr);
    assert!(!output.exists());
}

#[test]
fn what_is_no_device_lists_the_devices() {
    for command in [&GENERATE[..], &["inspect"], &["bench", "layer"], &["bench", "vision"]] {
        let run = Program::new(&[command, &["--device", "cuda:x"]].concat()).run();
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{command:?}");
        let expected = "error: invalid value 'cuda:x' for '--device <DEVICE>': option `device` is \
                        `cuda:x`, expected `auto`, `cpu`, `cuda`, or `cuda:N` for GPU number N\n";
        assert!(run.stderr.starts_with(expected), "{}", run.stderr);
    }
}

#[test]
fn a_gpu_writes_what_the_cpu_writes() {
    let Ok(number) = env::var(TEST_GPU) else { return skipped("cuda") };
    let device = format!("cuda:{number}");
    let on_gpu = |words: &[&str]| {
        let run = Program::new(&[words, &["--device", &device]].concat()).with_gpus().run();
        assert_eq!(run.code, Some(0), "{words:?}: {}", run.stderr);
        run
    };
    for backend in BACKENDS {
        let choice = ["--model", MODEL, "--experts-implementation", backend];
        let run = on_gpu(&[&GENERATE[..], &choice].concat());
        assert_eq!(run.stdout, expected(), "{backend}");
        assert!(run.stderr.contains("\ndevice   CUDA, "), "{}", run.stderr);
        let shown = match backend {
            "grouped_mm" => "grouped_mm, decode batched_mm",
            other => other,
        };
        assert!(run.stderr.ends_with(&format!("\nexperts  {shown}\n")), "{}", run.stderr);
    }
    let run = on_gpu(&[&GENERATE[..], &["--model", MODEL, "--no-decode-switch"]].concat());
    assert_eq!(run.stdout, expected());
    assert!(run.stderr.ends_with("\nexperts  grouped_mm\n"), "{}", run.stderr);

    let inspected = on_gpu(&["inspect", "--model", MODEL]).stdout;
    assert!(inspected.contains(&format!("\n  {device}*  ")), "{inspected}");
    assert!(inspected.contains("\nExperts backends on CUDA\n"), "{inspected}");
    let layer = ["bench", "layer", "--shape", "64,32,8,2", "--tokens", "1,40", "--time", "0.01"];
    let layer = on_gpu(&layer).stdout;
    assert!(layer.contains("\nlimits of 64,32,8,2 bf16: "), "{layer}");
    let model = ["bench", "model", "--prompt-tokens", "5", "--new-tokens", "4", "--batch", "2"];
    let compiled = ["--compile", "none,reduce-overhead", "--repetitions", "1", "--model", MODEL];
    let model = on_gpu(&[&model[..], &compiled].concat()).stdout;
    assert!(model.starts_with("machine   "), "{model}");
}
