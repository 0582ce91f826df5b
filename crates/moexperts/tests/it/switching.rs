//! The experts interface: choosing, switching, reading back, and what happens meanwhile.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
};

use moexperts::{
    Cpu, DType, ExpertsBackend, ExpertsCall, ExpertsInterface, ExpertsSpec, LoadOptions,
    core::{Error, Result, Tensor},
    cpu::{Eager, GroupedMm},
};

use crate::common::{BACKENDS, Golden, data, greedy, load, on_cpu};

fn names(model: &moexperts::LanguageModel) -> BTreeMap<String, String> {
    model.experts_implementation()
}

#[test]
fn a_backend_is_chosen_at_load_switched_and_restored() {
    let model = load("qwen3_moe", LoadOptions::new().experts_implementation("batched_mm"));
    let before = names(&model);
    assert_eq!(before, BTreeMap::from([(String::new(), "batched_mm".to_owned())]));
    model.set_experts_implementation("eager").unwrap();
    assert_eq!(names(&model)[""], "eager");
    model.set_experts_implementation(before.clone()).unwrap();
    assert_eq!(names(&model), before);
    model.set_experts_implementation([("", "grouped_mm")]).unwrap();
    assert_eq!(names(&model)[""], "grouped_mm");
}

#[test]
fn an_unknown_backend_is_an_error_that_lists_the_names_and_changes_nothing() {
    let model = load("mixtral", LoadOptions::new().experts_implementation("eager"));
    let error = model.set_experts_implementation("gruoped_mm").unwrap_err().to_string();
    assert!(
        error.starts_with(
            "experts implementation `gruoped_mm` is not registered for CPU, \
             expected one of `eager`, `batched_mm`, `grouped_mm`"
        ),
        "{error}"
    );
    assert_eq!(names(&model)[""], "eager");

    let options = LoadOptions::new().experts_implementation("fastest");
    let path = data("mixtral");
    let error = moexperts::AutoModelForCausalLm::from_pretrained(path.to_str().unwrap(), options);
    assert!(error.unwrap_err().to_string().starts_with("experts implementation `fastest`"));
}

#[test]
fn an_unknown_sub_config_is_an_error_and_changes_nothing() {
    let model = load("mixtral", LoadOptions::new());
    let map = [("text_config", "eager"), ("", "batched_mm")];
    let error = model.set_experts_implementation(map).unwrap_err();
    assert_eq!(
        error.to_string(),
        "experts implementation: the model has no sub-config `text_config`, \
         expected one of `` (the model itself)"
    );
    assert_eq!(names(&model)[""], "grouped_mm");
}

/// Refuses everything.
#[derive(Debug)]
struct Picky;

impl ExpertsBackend<Cpu> for Picky {
    fn name(&self) -> &str {
        "picky"
    }

    fn check(&self, spec: &ExpertsSpec, _device: &Cpu) -> Result<()> {
        let problem = format!("I = {} is not a multiple of 4096", spec.intermediate);
        Err(Error::Backend { name: "picky".into(), device: "CPU", problem })
    }

    fn forward(&self, _call: ExpertsCall<'_, Cpu>, _out: &mut Tensor) -> Result<()> {
        unreachable!("`check` refused")
    }
}

#[test]
fn a_backend_that_cannot_run_the_experts_is_an_error_that_says_what_is_missing() {
    ExpertsInterface::register(Picky).unwrap();
    let model = load("mixtral", LoadOptions::new());
    let error = model.set_experts_implementation("picky").unwrap_err();
    assert_eq!(
        error.to_string(),
        "experts implementation `picky` cannot run these experts on CPU: \
         I = 40 is not a multiple of 4096"
    );
    assert_eq!(names(&model)[""], "grouped_mm");
}

#[test]
fn a_backend_handed_over_runs_without_being_registered() {
    /// `eager`, under a name that only this model has.
    #[derive(Debug)]
    struct Counted(AtomicUsize);

    impl ExpertsBackend<Cpu> for Counted {
        fn name(&self) -> &str {
            "counted"
        }

        fn check(&self, spec: &ExpertsSpec, device: &Cpu) -> Result<()> {
            Eager.check(spec, device)
        }

        fn forward(&self, call: ExpertsCall<'_, Cpu>, out: &mut Tensor) -> Result<()> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Eager.forward(call, out)
        }
    }

    let golden = Golden::open("qwen3_moe");
    let ids = golden.ids("input_ids");
    let model = load("qwen3_moe", LoadOptions::new().experts_implementation("eager"));
    let expected = model.logits(&ids).unwrap();
    let counted = Arc::new(Counted(AtomicUsize::new(0)));
    on_cpu(&model).set_experts_backend(counted.clone()).unwrap();
    assert_eq!(names(&model)[""], "counted");
    assert!(ExpertsInterface::get::<Cpu>("counted").is_err());
    assert_eq!(model.logits(&ids).unwrap(), expected);
    assert_eq!(counted.0.load(Ordering::SeqCst), model.spec().moe_layers().count());

    let error = on_cpu(&model).set_experts_backend(Arc::new(Picky)).unwrap_err().to_string();
    assert!(error.starts_with("experts implementation `picky` cannot run"), "{error}");
    assert_eq!(names(&model)[""], "counted");
}

static ENTERED: Barrier = Barrier::new(2);
static SWITCHED: Barrier = Barrier::new(2);
static SLOW_CALLS: AtomicUsize = AtomicUsize::new(0);

/// Waits in its first call until the test has switched the model to another backend.
#[derive(Debug)]
struct Slow;

impl ExpertsBackend<Cpu> for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn check(&self, spec: &ExpertsSpec, device: &Cpu) -> Result<()> {
        Eager.check(spec, device)
    }

    fn forward(&self, call: ExpertsCall<'_, Cpu>, out: &mut Tensor) -> Result<()> {
        if SLOW_CALLS.fetch_add(1, Ordering::SeqCst) == 0 {
            ENTERED.wait();
            SWITCHED.wait();
        }
        GroupedMm.forward(call, out)
    }
}

#[test]
fn a_forward_finishes_with_the_backend_it_started_with() {
    ExpertsInterface::register(Slow).unwrap();
    let golden = Golden::open("qwen3_moe");
    let ids = golden.ids("input_ids");
    let model = load("qwen3_moe", LoadOptions::new().experts_implementation("slow"));
    let layers = model.spec().moe_layers().count();
    assert!(layers > 1);
    let logits = std::thread::scope(|scope| {
        let forward = scope.spawn(|| model.logits(&ids).unwrap());
        ENTERED.wait();
        model.set_experts_implementation("eager").unwrap();
        SWITCHED.wait();
        forward.join().unwrap()
    });
    assert_eq!(SLOW_CALLS.load(Ordering::SeqCst), layers, "every layer ran on `slow`");
    assert_eq!(names(&model)[""], "eager");
    assert_eq!(model.logits(&ids).unwrap(), logits);
    assert_eq!(SLOW_CALLS.load(Ordering::SeqCst), layers, "the next forward did not");

    ExpertsInterface::unregister::<Cpu>("slow").unwrap();
    let error = model.set_experts_implementation("slow").unwrap_err().to_string();
    assert!(error.starts_with("experts implementation `slow` is not registered"));
}

#[test]
fn switching_in_the_middle_of_a_generation_leaves_the_text_unchanged() {
    let golden = Golden::open("qwen2_moe");
    let model = load("qwen2_moe", LoadOptions::new().dtype(DType::F32));
    let options = greedy(20);
    let mut generation = model.generate_tokens(vec![golden.ids("input_ids")], &options).unwrap();
    let mut tokens = Vec::new();
    for index in 0.. {
        model.set_experts_implementation(BACKENDS[index % BACKENDS.len()]).unwrap();
        match generation.next() {
            Some(event) => tokens.push(event.unwrap().token),
            None => break,
        }
    }
    assert_eq!(tokens, golden.ids("greedy_ids"));
}

#[test]
fn switching_copies_no_weights() {
    let model = load("qwen2_moe", LoadOptions::new());
    let report = model.load_report();
    assert_eq!(report.converted_bytes, 0);
    let id = model.spec().vocab_size as u32 - 1;
    for backend in BACKENDS {
        model.set_experts_implementation(backend).unwrap();
        model.logits(&[id]).unwrap();
        assert_eq!(model.backend_cache_bytes(), 0);
    }
    assert_eq!(model.load_report(), report);
}
