//! Models on a GPU: an emulated one, or that of `MOEXPERTS_TEST_GPU`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../it/checks.rs"]
mod checks;
#[path = "../it/common.rs"]
#[expect(dead_code, reason = "the tests on the CPU share it")]
mod common;
#[path = "../it/pictures.rs"]
mod pictures;

use std::sync::{Arc, Mutex};

use moexperts::{
    Amount, CompileMode, CompileOptions, Cuda, DType, LanguageModel, LoadOptions, Memory, Progress,
    core::made, cuda::CudaTensor, files::ModelFiles,
};
use moexperts_cuda_emulator::{Emulator, EmulatorOptions, test_devices, test_gpu};

use crate::{
    checks::F32_TOLERANCE,
    common::{CASES, Golden, assert_close, data, greedy},
};

fn device() -> Cuda {
    let (_, cuda) = test_devices(&[EmulatorOptions::default()]).pop().unwrap();
    cuda
}

fn load(case: &str, device: Cuda, options: LoadOptions) -> LanguageModel<Cuda> {
    LanguageModel::load(device, ModelFiles::open(&data(case)).unwrap(), &options).unwrap()
}

fn in_f32(case: &str) -> LanguageModel<Cuda> {
    load(case, device(), LoadOptions::new().dtype(DType::F32))
}

#[test]
fn every_stage_in_f32_is_transformers() {
    for case in CASES {
        checks::every_stage(case, &in_f32(case));
    }
}

#[test]
fn greedy_tokens_in_f32_are_transformers() {
    for case in CASES {
        checks::greedy_tokens(case, &in_f32(case));
        checks::batched_greedy_tokens(case, &in_f32(case));
    }
}

#[test]
fn prompts_with_pictures_in_f32_are_transformers() {
    let model = in_f32(pictures::CASE);
    for name in pictures::PROMPTS {
        let golden = pictures::golden(name);
        let visuals = pictures::visuals(name, &golden);
        let read =
            |tensor: &CudaTensor| made(|out| model.device().read_tensor(tensor, out)).unwrap();
        let tower = model.vision_tower().unwrap();
        let features = visuals.iter().map(|visual| tower.features(visual.pixels()).unwrap());
        let embeddings: Vec<f32> = features.flat_map(|f| read(&f.embeddings)).collect();
        if !visuals.is_empty() {
            let expected = golden.values("vision.pooler_output");
            assert_close(name, &embeddings, expected, F32_TOLERANCE);
        }
        let prompt = model.prompt_of_tokens(golden.ids("input_ids"), visuals).unwrap();
        let logits = model.logits(prompt.clone()).unwrap();
        assert_close(name, &logits, golden.values("logits"), F32_TOLERANCE);
        let events = model.generate_tokens(vec![prompt], &greedy(20)).unwrap();
        let tokens: Vec<u32> = events.map(|event| event.unwrap().token).collect();
        assert_eq!(tokens, golden.ids("greedy_ids"), "{name}");
    }
}

#[test]
fn half_precision_is_no_further_from_f64_than_transformers() {
    for compute_capability in [(7, 5), (8, 0), (9, 0)] {
        let options = EmulatorOptions { compute_capability, ..EmulatorOptions::default() };
        for (what, device) in test_devices(&[options]) {
            for case in CASES {
                for dtype in [DType::Bf16, DType::F16] {
                    let model = load(case, device.clone(), LoadOptions::new().dtype(dtype));
                    checks::half_precision(case, &model, &what);
                }
            }
        }
    }
}

#[test]
fn every_cell_of_the_compile_matrix_agrees_or_says_why_not() {
    for dtype in DType::ALL {
        let model = load("mixtral", device(), LoadOptions::new().dtype(dtype));
        checks::compile_matrix("mixtral", dtype, &model);
    }
}

/// Compiled so that decoding is captured, the tokens of every family are transformers', and all steps
/// but the first two of a session are launches of a graph.
#[test]
fn a_captured_decode_step_continues_as_transformers() {
    const TOKENS: usize = 20;
    for case in CASES {
        let golden = Golden::open(case);
        let emulator = Emulator::new(EmulatorOptions::default());
        let (device, counts) = match test_gpu() {
            Some(cuda) => (cuda, false),
            None => (emulator.cuda(), true),
        };
        let model = load(case, device, LoadOptions::new().dtype(DType::F32));
        let options = CompileOptions::new(CompileMode::ReduceOverhead).fullgraph(true);
        let report = model.compile(options).unwrap();
        assert_eq!(report.captured, Some(true), "{report}");
        for _ in 0..2 {
            emulator.reset();
            let prompt = vec![golden.ids("input_ids")];
            let events = model.generate_tokens(prompt, &greedy(TOKENS)).unwrap();
            let tokens: Vec<u32> = events.map(|event| event.unwrap().token).collect();
            assert_eq!(tokens, golden.ids("greedy_ids"), "{case}");
            // The prompt gives the first token.
            let steps = TOKENS - 1;
            assert!(!counts || emulator.graph_launches() == steps - 2, "{case}");
        }
        let explanation = model.explain().unwrap();
        assert!(explanation.plans.iter().any(|plan| plan.captured), "{case}: {explanation}");
    }
}

/// What a model's loading tells.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<(String, u64)>>);

impl Progress for Told {
    fn start(&self, what: &str, amount: Amount) {
        let Amount::Bytes(bytes) = amount else { panic!("{what}: {amount:?}") };
        self.0.lock().unwrap().push((format!("start {what}"), bytes));
    }

    fn advance(&self, what: &str, done: u64) {
        self.0.lock().unwrap().push((what.to_owned(), done));
    }

    fn finish(&self, what: &str) {
        self.0.lock().unwrap().push((format!("finish {what}"), 0));
    }
}

#[test]
fn weights_are_brought_over_once_and_that_is_told() {
    const WHAT: &str = "bringing weights to the GPU";
    let told = Arc::new(Told::default());
    let model = load("qwen2_moe", device(), LoadOptions::new().progress(told.clone()));
    let told = told.0.lock().unwrap();
    let total = told[0].1;
    assert_eq!(told[0].0, format!("start {WHAT}"));
    assert_eq!(told.last(), Some(&(format!("finish {WHAT}"), 0)));
    let done: u64 = told.iter().filter(|(what, _)| what == WHAT).map(|(_, done)| done).sum();
    let report = model.load_report();
    assert_eq!(done, (report.in_place_bytes + report.converted_bytes) as u64);
    assert_eq!(done, total);
}

#[test]
fn what_does_not_fit_says_how_much_it_needs_and_how_much_there_is() {
    let memory_bytes = 40_000;
    let options = EmulatorOptions { memory_bytes, ..EmulatorOptions::default() };
    let small = Emulator::new(options);
    let files = ModelFiles::open(&data("qwen2_moe")).unwrap();
    let error = LanguageModel::load(small.cuda(), files, &LoadOptions::new()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("out of memory"), "{error}");
    assert!(error.contains("needed") && error.contains("free"), "{error}");
    assert_eq!(small.used_bytes(), 0, "what was brought over is given back");
}
