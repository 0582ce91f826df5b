//! Models on a GPU: an emulated one, or that of `MOEXPERTS_TEST_GPU`.

use std::sync::{Arc, Mutex};

use moexperts::{
    Amount, AnyDevice, AutoModel, CompileMode, CompileOptions, Cuda, DType, LanguageModel,
    LoadOptions, Progress, files::ModelFiles,
};
use moexperts_cuda_emulator::{Emulator, EmulatorOptions, test_devices, test_gpu};

use crate::{
    checks,
    common::{CASES, Golden, data, greedy},
    pictures,
};

fn device() -> Cuda {
    let (_, cuda) = test_devices(&[EmulatorOptions::default()]).pop().unwrap();
    cuda
}

fn load(case: &str, device: Cuda, options: LoadOptions) -> LanguageModel {
    let files = ModelFiles::open(&data(case)).unwrap();
    AutoModel::from_files_on(AnyDevice::from(device), files, options).unwrap()
}

fn in_f32(case: &str) -> LanguageModel {
    load(case, device(), LoadOptions::new().dtype(DType::F32))
}

#[test]
fn every_stage_in_f32_is_transformers() {
    for case in CASES {
        checks::every_stage::<Cuda>(case, &in_f32(case));
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
    checks::prompts_with_pictures::<Cuda>(&in_f32(pictures::CASE));
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
fn an_error_of_memory_says_how_much_is_needed_and_free() {
    let memory_bytes = 40_000;
    let options = EmulatorOptions { memory_bytes, ..EmulatorOptions::default() };
    let small = Emulator::new(options);
    let files = ModelFiles::open(&data("qwen2_moe")).unwrap();
    let device = AnyDevice::from(small.cuda());
    let error = AutoModel::from_files_on(device, files, LoadOptions::new()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("out of memory"), "{error}");
    assert!(error.contains("needed") && error.contains("free"), "{error}");
    assert_eq!(small.used_bytes(), 0, "what was brought over is given back");
}
