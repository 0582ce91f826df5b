//! Compiled models: the same results, as plans whose pieces are known.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use moexperts::{
    AutoModel, CompileMode, CompileOptions, Cpu, CpuOptions, DType, Error, ExpertsBackend,
    ExpertsCall, ExpertsInterface, ExpertsSpec, LanguageModel, LoadOptions,
    core::{Result, Tensor},
    cpu::{Eager, GroupedMm},
};

use crate::common::{BACKENDS, CASES, Golden, assert_close, data, greedy, load, on_cpu};

/// As for models that are not compiled.
const F32_TOLERANCE: f64 = 1e-4;

/// Options that keep what they measure in a folder of the test.
fn options(mode: CompileMode, folder: &Path) -> CompileOptions {
    CompileOptions::new(mode).cache_dir(folder).prompt_tokens(vec![8])
}

/// Prompts of different lengths, cut out of a golden's.
fn prompts(ids: &[u32]) -> Vec<Vec<u32>> {
    let lengths = [ids.len(), 1, ids.len() / 2, 3, ids.len() - 1];
    lengths.map(|len| ids[..len.max(1)].to_vec()).to_vec()
}

/// Greedy tokens of batches of 1, then 5, then 2 sequences, each of another length.
fn texts(model: &LanguageModel, ids: &[u32]) -> Vec<Vec<u32>> {
    let prompts = prompts(ids);
    let mut texts = Vec::new();
    for batch in [&prompts[..1], &prompts[..], &prompts[1..3]] {
        let mut generation = model.generate_tokens(batch.to_vec(), &greedy(12)).unwrap();
        for event in generation.by_ref() {
            event.unwrap();
        }
        texts.extend((0..batch.len()).map(|sequence| generation.tokens(sequence).to_vec()));
    }
    texts
}

#[test]
fn compiled_is_transformers_and_writes_the_same_text_whatever_the_shapes() {
    let folder = tempfile::tempdir().unwrap();
    for case in CASES {
        let golden = Golden::open(case);
        let ids = golden.ids("input_ids");
        let model = load(case, LoadOptions::new().dtype(DType::F32));
        for backend in BACKENDS {
            model.reset_compile();
            model.set_experts_implementation(backend).unwrap();
            let expected = texts(&model, &ids);
            for mode in [CompileMode::Default, CompileMode::MaxAutotune] {
                let what = format!("{case} {backend} {mode}");
                model.compile(options(mode, folder.path())).unwrap();
                let logits = model.logits(ids.clone()).unwrap();
                assert_close(&what, &logits, golden.values("logits"), F32_TOLERANCE);
                assert_eq!(texts(&model, &ids), expected, "{what}");
                // What was observed ran operation by operation, and is the same.
                let observed = on_cpu(&model).logits_observed(ids.clone(), &mut |_, _| {});
                assert_close(&what, &observed.unwrap(), golden.values("logits"), F32_TOLERANCE);
            }
        }
    }
}

#[test]
fn compiled_repeats_bit_for_bit_for_every_number_of_threads() {
    for case in ["qwen2_moe", "mixtral"] {
        let ids = Golden::open(case).ids("input_ids");
        let logits = |threads: usize| {
            let threads = std::num::NonZero::new(threads);
            let model = load(case, LoadOptions::new().threads(threads));
            model.compile(CompileOptions::default()).unwrap();
            [model.logits(ids.clone()).unwrap(), model.logits(ids.clone()).unwrap()]
        };
        let [first, second] = logits(1);
        assert_eq!(first, second);
        for threads in 2..=3 {
            assert_eq!(logits(threads), [first.clone(), first.clone()], "{threads} threads");
        }
    }
}

#[test]
fn in_half_precision_compiling_changes_no_more_than_a_backend_does() {
    for case in CASES {
        let golden = Golden::open(case);
        for dtype in [DType::Bf16, DType::F16] {
            let model = load(case, LoadOptions::new().dtype(dtype));
            let plain = model.logits(golden.ids("input_ids")).unwrap();
            let plain: Vec<f64> = plain.iter().map(|&value| f64::from(value)).collect();
            model.compile(CompileOptions::default()).unwrap();
            let compiled = model.logits(golden.ids("input_ids")).unwrap();
            // Weights are exact in f32, and inputs are rounded alike: only the order differs.
            assert_close(case, &compiled, &plain, 4.0 * dtype.epsilon());
        }
    }
}

#[test]
fn a_plan_is_made_once_for_each_class_and_backend_and_kept() {
    let model = load("qwen2_moe", LoadOptions::new());
    assert!(model.explain().is_none() && model.compile_options().is_none());
    let options = CompileOptions::default().prompt_tokens(vec![20]);
    let report = model.compile(options).unwrap();
    assert_eq!((report.plans, report.pieces, report.captured), (2, 1, None));
    let classes = || {
        let explanation = model.explain().unwrap();
        let name = |plan: moexperts::PlanExplanation| (plan.class, plan.backend);
        explanation.plans.into_iter().map(name).collect::<Vec<_>>()
    };
    let class = |class: &str, backend: &str| (class.to_owned(), backend.to_owned());
    let first = [
        class("decode of batch 1", "grouped_mm"),
        class("prefill of up to 32 tokens", "grouped_mm"),
    ];
    assert_eq!(classes(), first);
    let tokens = |model: &LanguageModel| {
        let mut generation = model.generate_tokens(vec![vec![1, 2, 3]], &greedy(4)).unwrap();
        for event in generation.by_ref() {
            event.unwrap();
        }
        generation.tokens(0).to_vec()
    };
    let text = tokens(&model);
    let bucket = class("prefill of up to 16 tokens", "grouped_mm");
    assert_eq!(classes(), [first[0].clone(), bucket.clone(), first[1].clone()]);
    model.set_experts_implementation("eager").unwrap();
    assert_eq!(classes().len(), 3, "the plan is made at the next forward");
    assert_eq!(tokens(&model), text);
    let both = classes();
    assert_eq!(both.len(), 5);
    assert!(both.contains(&class("decode of batch 1", "eager")) && both.contains(&bucket));
    model.set_experts_implementation("grouped_mm").unwrap();
    assert_eq!(tokens(&model), text);
    assert_eq!(classes(), both, "both are kept");
    model.reset_compile();
    assert!(model.explain().is_none());
    assert_eq!(tokens(&model), text);
}

#[test]
fn neighbours_become_one_operation() {
    let operations = |case: &str, layer: usize| {
        let model = load(case, LoadOptions::new());
        model.compile(CompileOptions::default()).unwrap();
        let explanation = model.explain().unwrap();
        let steps = explanation.plans[0].steps.iter();
        let steps = steps.filter(|step| step.layer == Some(layer));
        steps
            .map(|step| format!("{}: {}", step.operation, step.parts.join(", ")))
            .collect::<Vec<_>>()
    };
    let attention = [
        "linear: q_proj, k_proj, v_proj",
        "rope: rope",
        "attention: attention",
        "linear: o_proj",
        "add_rms_norm: residual, post_attention_layernorm",
    ];
    let dense = ["route: all tokens", "experts: gate_proj, up_proj, act_fn, down_proj"];
    let routed = "router: gate, shared_expert_gate, softmax, top_k";
    let residual = ["add_rms_norm: residual, input_layernorm"];
    // A shared expert of two routed ones goes beside them.
    let joined = [routed, "experts: experts, shared_expert"];
    let layer = |middle: &[&'static str]| [&attention[..], middle, &residual].concat();
    assert_eq!(operations("qwen2_moe_window", 1), layer(&joined));
    assert_eq!(operations("qwen2_moe_window", 2), layer(&dense));
    // One of 36 does not go into 20.
    let apart = [&[routed, "experts: experts"], &dense[..], &["add_gated: shared_expert"]].concat();
    assert_eq!(operations("qwen2_moe", 0)[1..], layer(&apart));
    let qwen3 = operations("qwen3_moe", 0);
    assert!(qwen3.contains(&"rms_norm: q_norm".to_owned()), "{qwen3:?}");
    assert!(qwen3.contains(&"router: gate, softmax, top_k".to_owned()), "{qwen3:?}");
    let clipped = operations("olmoe", 0);
    assert_eq!(clipped.iter().filter(|step| *step == "clamp: clip_qkv").count(), 3, "{clipped:?}");
}

/// A backend that does not read the routing on the host, and says so.
#[derive(Debug)]
struct Quiet;

/// A backend that leaves open whether it reads the routing on the host.
#[derive(Debug)]
struct Silent;

macro_rules! passes_on {
    ($backend:ident, $name:literal, $inner:ident, $($method:item)*) => {
        impl ExpertsBackend<Cpu> for $backend {
            fn name(&self) -> &str {
                $name
            }

            fn check(&self, spec: &ExpertsSpec, device: &Cpu) -> Result<()> {
                $inner.check(spec, device)
            }

            fn forward(&self, call: ExpertsCall<'_, Cpu>, out: &mut Tensor) -> Result<()> {
                $inner.forward(call, out)
            }

            $($method)*
        }
    };
}

passes_on! { Quiet, "quiet", GroupedMm, fn reads_routing_on_host(&self) -> bool { false } }
passes_on! { Silent, "silent", Eager, }

#[test]
fn fullgraph_is_one_piece_or_an_error_that_names_backend_and_operation() {
    ExpertsInterface::register::<Cpu>(Quiet).unwrap();
    ExpertsInterface::register::<Cpu>(Silent).unwrap();
    let model = load("mixtral", LoadOptions::new());
    let ids = Golden::open("mixtral").ids("input_ids");
    let fullgraph = || CompileOptions::default().fullgraph(true);
    let layers = model.spec().layers.len();
    for (backend, breaks) in [
        ("grouped_mm", false),
        ("batched_mm", false),
        ("quiet", false),
        ("eager", true),
        ("silent", true),
    ] {
        model.reset_compile();
        model.set_experts_implementation(backend).unwrap();
        let plain = model.logits(ids.clone()).unwrap();
        let text = format!(
            "fullgraph: experts implementation `{backend}` breaks the graph at experts: it reads on \
             the host which experts were hit"
        );
        match model.compile(fullgraph()) {
            Ok(report) => assert!(!breaks && report.pieces == 1, "{backend}: {report}"),
            Err(error) => {
                assert!(breaks, "{backend}: {error}");
                assert_eq!(error.to_string(), text);
                assert!(error.hint().unwrap().contains("without fullgraph"));
                assert!(model.explain().is_none(), "a failed compile changes nothing");
            }
        }
        let report = model.compile(CompileOptions::default()).unwrap();
        let expected = if breaks { layers + 1 } else { 1 };
        assert_eq!(report.pieces, expected, "{backend}");
        let explanation = model.explain().unwrap();
        let found = &explanation.plans[0].breaks;
        assert_eq!(found.len(), if breaks { layers } else { 0 });
        assert!(found.iter().all(|found| found.operation == "experts"));
        let line =
            format!("break at experts of layers 0-{}: {backend} reads on the host", layers - 1);
        assert_eq!(explanation.to_string().contains(&line), breaks, "{explanation}");
        let compiled = model.logits(ids.clone()).unwrap();
        let plain: Vec<f64> = plain.into_iter().map(f64::from).collect();
        assert_close(backend, &compiled, &plain, 0.02);
    }
    // A switch that would break the graph is refused, and changes nothing.
    model.set_experts_implementation("grouped_mm").unwrap();
    model.compile(fullgraph()).unwrap();
    let error = model.set_experts_implementation("eager").unwrap_err();
    assert!(matches!(error, Error::GraphBreak { .. }), "{error}");
    assert_eq!(model.experts_implementation()[""], "grouped_mm");
    model.set_experts_implementation("batched_mm").unwrap();
    ExpertsInterface::unregister::<Cpu>("quiet").unwrap();
    ExpertsInterface::unregister::<Cpu>("silent").unwrap();
}

#[test]
fn impossible_shapes_to_compile_for_are_refused() {
    let model = load("mixtral", LoadOptions::new());
    let none = CompileOptions::default().batch_sizes(vec![1, 0]);
    assert_eq!(
        model.compile(none).unwrap_err().to_string(),
        "option `batch_sizes` is 0, expected at least 1"
    );
    let empty = CompileOptions::default().prompt_tokens(vec![0]);
    assert_eq!(
        model.compile(empty).unwrap_err().to_string(),
        "option `prompt_tokens` is 0, expected at least 1"
    );
}

#[test]
fn measurements_are_kept_for_the_next_time() {
    let folder = tempfile::tempdir().unwrap();
    let model = load("qwen2_moe", LoadOptions::new());
    let tuned = |memory_bytes| {
        let options = options(CompileMode::MaxAutotuneNoCudagraphs, folder.path());
        model.compile(options.memory_bytes(memory_bytes)).unwrap()
    };
    let first = tuned(0);
    // The last token's logits are the same product in both plans.
    assert!(first.measured > 0 && first.known == 1, "{first}");
    let second = tuned(0);
    assert_eq!((second.measured, second.known), (0, first.measured + 1), "{second}");
    // Copies were not measured then.
    let third = tuned(1 << 20);
    assert_eq!((third.measured, third.known), (first.measured, 1), "{third}");
    assert!(third.copied_bytes <= 1 << 20);
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(files.len(), 1);
}

/// The embedded model's folder: a weight of it is large enough to be copied.
fn book_model() -> LanguageModel {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/rust-book-moe");
    AutoModel::from_pretrained(folder, LoadOptions::new()).unwrap()
}

#[test]
fn the_chosen_kernels_run() {
    let folder = tempfile::tempdir().unwrap();
    let model = book_model();
    let ids: Vec<u32> = (0..5).collect();
    let prompts: Vec<Vec<u32>> = ids.iter().map(|&id| vec![id + 7, id + 9]).collect();
    let logits = |model: &LanguageModel| {
        let mut generation = model.generate_tokens(prompts.clone(), &greedy(6)).unwrap();
        for event in generation.by_ref() {
            event.unwrap();
        }
        prompts.iter().enumerate().map(|(i, _)| generation.tokens(i).to_vec()).collect::<Vec<_>>()
    };
    let expected = logits(&model);
    let options = options(CompileMode::MaxAutotune, folder.path())
        .batch_sizes(vec![5])
        .memory_bytes(1 << 24)
        .prompt_tokens(Vec::new());
    let kernels = |model: &LanguageModel| {
        let plans = model.explain().unwrap().plans;
        let steps = plans[0].steps.iter().filter(|step| step.operation == "linear");
        steps.map(|step| step.kernel.clone().unwrap()).collect::<Vec<_>>()
    };
    model.compile(options.clone()).unwrap();
    // Whatever was measured, the file says now that five rows fill a panel, and copies are faster.
    let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&file).unwrap();
    let mut document: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (_, choice) in document["choices"].as_object_mut().unwrap() {
        *choice = serde_json::json!({ "knobs": { "panel_rows": 4 }, "copy": true });
    }
    std::fs::write(&file, document.to_string()).unwrap();
    let report = model.compile(options.clone()).unwrap();
    assert_eq!(report.measured, 0, "{report}");
    assert!(
        kernels(&model).iter().all(|kernel| kernel.ends_with(" lanes")),
        "{:?}",
        kernels(&model)
    );
    // The head, 4096 x 192 of bf16, and nothing else is large enough.
    assert_eq!(report.copied_bytes, 4096 * 192 * 2);
    assert_eq!(logits(&model), expected);
    for (_, choice) in document["choices"].as_object_mut().unwrap() {
        *choice = serde_json::json!({ "copy": false });
    }
    std::fs::write(&file, document.to_string()).unwrap();
    let report = model.compile(options.clone()).unwrap();
    assert!(kernels(&model).iter().all(|kernel| kernel.ends_with(" dot")), "{:?}", kernels(&model));
    assert_eq!(report.copied_bytes, 0);
    // No copy is larger than what is left.
    for (_, choice) in document["choices"].as_object_mut().unwrap() {
        *choice = serde_json::json!({ "copy": true });
    }
    std::fs::write(&file, document.to_string()).unwrap();
    let report = model.compile(options.memory_bytes(1 << 20)).unwrap();
    assert_eq!((report.measured, report.copied_bytes), (0, 0), "{report}");
}

#[test]
fn plans_go_back_to_the_model_they_are_of_and_to_no_other() {
    let [model, other] = [(); 2].map(|()| load("mixtral", LoadOptions::new()));
    model.compile(CompileOptions::default()).unwrap();
    let plans = model.compiled();
    assert!(plans.is_some() && other.compiled().is_none());
    let error = other.set_compiled(plans.clone()).unwrap_err();
    assert!(
        error.to_string().starts_with("option `compiled` is made by another model, "),
        "{error}"
    );
    assert!(other.explain().is_none());
    let made = model.explain();
    model.reset_compile();
    assert!(model.explain().is_none());
    model.set_compiled(plans).unwrap();
    assert_eq!(model.explain(), made);
}

/// `qwen2_moe` with that many layers, those of `dense` dense, the others with experts.
fn deep(folder: &Path, layers: usize, dense: &[usize]) -> LanguageModel {
    let bytes = std::fs::read(data("qwen2_moe").join("model.safetensors")).unwrap();
    let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors = Vec::new();
    for (name, tensor) in stored.tensors() {
        let Some(rest) = name.strip_prefix("model.layers.") else {
            tensors.push((name, tensor));
            continue;
        };
        let (from, rest) = rest.split_once('.').unwrap();
        for layer in 0..layers {
            let source = if dense.contains(&layer) { "1" } else { "0" };
            if from == source {
                tensors.push((format!("model.layers.{layer}.{rest}"), tensor.clone()));
            }
        }
    }
    let file = folder.join("model.safetensors");
    safetensors::serialize_to_file(tensors, None, &file).unwrap();
    let config = std::fs::read(data("qwen2_moe").join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    config["num_hidden_layers"] = layers.into();
    config["mlp_only_layers"] = serde_json::json!(dense);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    AutoModel::from_pretrained(folder.to_str().unwrap(), LoadOptions::new()).unwrap()
}

#[test]
fn layers_that_are_not_measured_do_not_disturb_those_that_are() {
    for dense in [&[0, 6][..], &[6], &[1, 2, 8]] {
        let folder = tempfile::tempdir().unwrap();
        let model = deep(folder.path(), 9, dense);
        let ids: Vec<u32> = (3..15).collect();
        let expected: Vec<f64> =
            model.logits(ids.clone()).unwrap().into_iter().map(f64::from).collect();
        let text = texts(&model, &ids);
        for backend in BACKENDS {
            model.set_experts_implementation(backend).unwrap();
            model.compile(options(CompileMode::MaxAutotune, folder.path())).unwrap();
            let what = format!("dense {dense:?} {backend}");
            assert_close(&what, &model.logits(ids.clone()).unwrap(), &expected, F32_TOLERANCE);
            assert_eq!(texts(&model, &ids), text, "{what}");
        }
    }
}

#[test]
fn a_forward_of_no_class_is_planned_for_itself() {
    let model = load("mixtral", LoadOptions::new().threads(std::num::NonZero::new(2)));
    model.compile(CompileOptions::default()).unwrap();
    let prompts: Vec<Vec<u32>> = (0..70).map(|first| vec![first % 50 + 1, 2]).collect();
    let mut generation = model.generate_tokens(prompts.clone(), &greedy(3)).unwrap();
    for event in generation.by_ref() {
        event.unwrap();
    }
    let compiled: Vec<_> = (0..70).map(|sequence| generation.tokens(sequence).to_vec()).collect();
    let classes: Vec<_> = model.explain().unwrap().plans.into_iter().map(|p| p.class).collect();
    assert!(!classes.contains(&"decode of batch 70".to_owned()), "{classes:?}");
    model.reset_compile();
    let mut generation = model.generate_tokens(prompts, &greedy(3)).unwrap();
    for event in generation.by_ref() {
        event.unwrap();
    }
    for (sequence, compiled) in compiled.iter().enumerate() {
        assert_eq!(generation.tokens(sequence), compiled);
    }
}

#[test]
fn one_compiled_model_serves_many_threads() {
    let model = load("qwen2_moe", LoadOptions::new().dtype(DType::F32));
    let ids = Golden::open("qwen2_moe").ids("input_ids");
    let expected = texts(&model, &ids);
    model.compile(CompileOptions::default()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (model, ids, expected) = (&model, &ids, &expected);
            scope.spawn(move || {
                for round in 0..3 {
                    let backend = BACKENDS[(thread + round) % BACKENDS.len()];
                    model.set_experts_implementation(backend).unwrap();
                    assert_eq!(texts(model, ids), *expected);
                }
            });
        }
    });
}

#[test]
fn a_model_on_another_device_handle_compiles_too() {
    let model = crate::common::load_on("olmoe", CpuOptions::default(), DType::Bf16);
    let report = model.compile(CompileOptions::default()).unwrap();
    assert!(report.to_string().starts_with("default: 1 piece, 1 plan, "), "{report}");
    let overhead = CompileOptions::new(CompileMode::ReduceOverhead);
    let report = model.compile(overhead).unwrap();
    assert_eq!(report.captured, Some(false));
    assert!(report.to_string().ends_with("; no graph to capture on CPU"), "{report}");
}

/// Runs as `grouped_mm` does, under its name, and counts.
#[derive(Debug)]
struct Namesake(Arc<AtomicUsize>);

impl ExpertsBackend<Cpu> for Namesake {
    fn name(&self) -> &str {
        "grouped_mm"
    }

    fn check(&self, spec: &ExpertsSpec, device: &Cpu) -> Result<()> {
        GroupedMm.check(spec, device)
    }

    fn forward(&self, call: ExpertsCall<'_, Cpu>, out: &mut Tensor) -> Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        GroupedMm.forward(call, out)
    }
}

#[test]
fn a_backend_with_the_name_of_a_built_in_one_runs_though_that_is_compiled() {
    let model = load("qwen3_moe", LoadOptions::new());
    let ids = Golden::open("qwen3_moe").ids("input_ids");
    let tokens = |model: &LanguageModel| -> Vec<u32> {
        let events = model.generate_tokens(vec![ids.clone()], &greedy(5)).unwrap();
        events.map(|event| event.unwrap().token).collect()
    };
    model.compile(CompileOptions::default()).unwrap();
    let expected = tokens(&model);
    let layers = model.spec().moe_layers().count();
    let forwards = Arc::new(AtomicUsize::new(0));
    let backend = Arc::new(Namesake(Arc::clone(&forwards)));
    on_cpu(&model).set_experts_backend(backend).unwrap();
    assert_eq!(tokens(&model), expected);
    assert_eq!(forwards.load(Ordering::SeqCst), 5 * layers);
    // A second of its kind has plans for itself.
    let others = Arc::new(AtomicUsize::new(0));
    let backend = Arc::new(Namesake(Arc::clone(&others)));
    on_cpu(&model).set_experts_backend(backend).unwrap();
    assert_eq!(tokens(&model), expected);
    assert_eq!(forwards.load(Ordering::SeqCst), 5 * layers);
    assert_eq!(others.load(Ordering::SeqCst), 5 * layers);
}

#[test]
fn plans_go_with_their_backend() {
    let model = load("mixtral", LoadOptions::new());
    model.compile(CompileOptions::default()).unwrap();
    let mut session = model.session(1).unwrap();
    let run = |session| {
        let generation = model.continue_tokens(session, vec![vec![3, 4, 5]], &greedy(3)).unwrap();
        let mut generation = generation;
        for event in generation.by_ref() {
            event.unwrap();
        }
        generation.into_session()
    };
    session = run(session);
    let kept = model.explain().unwrap().plans.len();
    for _ in 0..4 {
        let backend: Arc<dyn ExpertsBackend<Cpu>> = Arc::new(Namesake(Arc::default()));
        let alive = Arc::downgrade(&backend);
        on_cpu(&model).set_experts_backend(backend).unwrap();
        session = run(session);
        assert!(alive.strong_count() > 0);
        assert!(model.explain().unwrap().plans.len() > kept);
        model.set_experts_implementation("grouped_mm").unwrap();
        assert_eq!(alive.strong_count(), 0, "a session or a plan keeps the backend");
        assert_eq!(model.explain().unwrap().plans.len(), kept);
    }
}
