//! A decode step allocates nothing, whether the model is compiled or not. A program apart from the
//! other tests, since its allocator counts what the whole process does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{num::NonZero, path::Path};

use moexperts::{
    AnyDevice, AutoModel, CompileOptions, Cpu, CpuOptions, DType, GenerateOptions, LanguageModel,
    LoadOptions, files::ModelFiles,
};
use moexperts_conformance::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// Every tiny checkpoint that reads text.
const CASES: [&str; 9] = [
    "qwen2_moe",
    "qwen2_moe_window",
    "qwen3_moe",
    "qwen3_moe_fused",
    "olmoe",
    "mixtral",
    "gpt_oss",
    "granitemoe",
    "minimax_m2",
];

/// The backends that come with the CPU.
const BACKENDS: [&str; 3] = ["eager", "batched_mm", "grouped_mm"];

const NEW_TOKENS: usize = 40;

/// Steps until all memory is allocated: the prompts, and the first token after them.
const FIRST_STEPS: usize = 2;

fn load(case: &str, cpu: &Cpu, dtype: DType) -> LanguageModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(case);
    // Text allocates: each event carries it in a string.
    let mut files = ModelFiles::open(&folder).unwrap();
    files.tokenizer = None;
    let options = LoadOptions::new().dtype(dtype);
    AutoModel::from_files_on(AnyDevice::from(cpu.clone()), files, options).unwrap()
}

#[test]
fn a_decode_step_allocates_nothing() {
    let options = GenerateOptions {
        do_sample: Some(false),
        ignore_eos: true,
        max_new_tokens: Some(NEW_TOKENS),
        ..GenerateOptions::default()
    };
    // Of different lengths, and so short that the prompts allocate for no more than a step.
    let long = [vec![5, 9, 3, 7, 11, 13, 17], vec![1], vec![2, 4, 6, 8]];
    let short = [vec![5], vec![1], vec![2]];
    // Threads that end would be seen too: they live as long as the test.
    let cpus = [1, 2, 3]
        .map(|threads| Cpu::new(CpuOptions { threads: NonZero::new(threads), isa: None }).unwrap());
    wait_for_silence();
    for case in CASES {
        for dtype in DType::ALL {
            for cpu in &cpus {
                let (model, threads) = (load(case, cpu, dtype), cpu.thread_count());
                for backend in BACKENDS {
                    model.set_experts_implementation(backend).unwrap();
                    for compiled in [false, true] {
                        if compiled {
                            model.compile(CompileOptions::default()).unwrap();
                        }
                        for prompts in [&long[..1], &long, &short[..1], &short] {
                            let what = format!(
                                "{case} {dtype} {backend}, {threads} threads, compiled {compiled}"
                            );
                            steps_allocate_nothing(&what, &model, prompts, &options);
                        }
                    }
                    model.reset_compile();
                }
            }
        }
    }
}

/// Waits until the other threads of the process allocate no more: the test harness allocates after it
/// has started a test, which on a busy machine may be a while later.
fn wait_for_silence() {
    let mut before = usize::MAX;
    loop {
        let now = ALLOCATOR.allocations();
        if now == before {
            return;
        }
        before = now;
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
}

fn steps_allocate_nothing(
    what: &str,
    model: &LanguageModel,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
) {
    let mut generation = model.generate_tokens(prompts.to_vec(), options).unwrap();
    let first = FIRST_STEPS * prompts.len();
    assert_eq!(generation.by_ref().take(first).filter(Result::is_ok).count(), first, "{what}");
    for event in first..NEW_TOKENS * prompts.len() {
        let before = ALLOCATOR.allocations();
        let next = generation.next();
        let allocations = ALLOCATOR.allocations() - before;
        assert!(next.is_some_and(|event| event.is_ok()), "{what}: event {event}");
        assert_eq!(allocations, 0, "{what}, batch {}: event {event}", prompts.len());
    }
    assert!(generation.next().is_none(), "{what}");
}
