//! Against transformers, stage by stage.

use moexperts::{
    Cpu, CpuOptions, DType, LoadOptions,
    core::{Device, made},
    cpu::Isa,
    model::Stage,
};

use crate::common::{BACKENDS, CASES, Golden, assert_close, greedy, load, load_on, rms};

/// Relative to the largest value of a tensor: transformers' own f32 results are this near to f64.
const F32_TOLERANCE: f64 = 1e-4;

#[test]
fn every_stage_in_f32_is_transformers() {
    for case in CASES {
        let golden = Golden::open(case);
        let model = load(case, LoadOptions::new().dtype(DType::F32));
        let top_k = model.spec().moe_layers().next().unwrap().router.top_k;
        for backend in BACKENDS {
            model.set_experts_implementation(backend).unwrap();
            let mut stages = 0;
            let device = model.device();
            let logits = model.logits_observed(golden.ids("input_ids"), &mut |layer, stage| {
                let name = |stage: &str| format!("layers.{layer}.{stage}");
                let check = |stage: &str, tensor| {
                    let got = made(|out| device.read_tensor(tensor, out)).unwrap();
                    let what = format!("{case} {backend} {}", name(stage));
                    assert_close(&what, &got, golden.values(&name(stage)), F32_TOLERANCE);
                };
                stages += 1;
                match stage {
                    Stage::RouterLogits(logits) => check("router_logits", logits),
                    Stage::ExpertsOutput(output) => check("experts_output", output),
                    Stage::BlockOutput(output) => check("block_output", output),
                    Stage::Routing(routing) => {
                        let routing = device.read_routing(routing).unwrap();
                        assert_eq!(routing.top_k(), top_k);
                        assert_eq!(routing.top_k_index(), golden.ids(&name("top_k_index")));
                        let weights = golden.values(&name("top_k_weights"));
                        assert_close(case, routing.top_k_weights(), weights, F32_TOLERANCE);
                    }
                }
            });
            assert_close(case, &logits.unwrap(), golden.values("logits"), F32_TOLERANCE);
            let layers = model.spec().layers.len();
            assert_eq!(stages, layers + 3 * model.spec().moe_layers().count());
        }
    }
}

#[test]
fn greedy_tokens_in_f32_are_transformers() {
    for case in CASES {
        let golden = Golden::open(case);
        let model = load(case, LoadOptions::new().dtype(DType::F32));
        for backend in BACKENDS {
            model.set_experts_implementation(backend).unwrap();
            let options = greedy(20);
            let prompt = golden.ids("input_ids");
            let events = model.generate_tokens(vec![prompt], &options).unwrap();
            let tokens: Vec<u32> = events.map(|event| event.unwrap().token).collect();
            assert_eq!(tokens, golden.ids("greedy_ids"), "{case} {backend}");
        }
    }
}

#[test]
fn half_precision_is_no_further_from_f64_than_transformers() {
    for case in CASES {
        let golden = Golden::open(case);
        let exact = golden.values("logits_f64");
        for (dtype, theirs) in [(DType::Bf16, "logits_bf16"), (DType::F16, "logits_f16")] {
            let theirs = rms(golden.values(theirs).iter().copied(), exact);
            for isa in Isa::available() {
                let model = load_on(case, CpuOptions { isa: Some(isa), threads: None }, dtype);
                for backend in BACKENDS {
                    model.set_experts_implementation(backend).unwrap();
                    let logits = model.logits(golden.ids("input_ids")).unwrap();
                    let ours = rms(logits.iter().map(|&logit| f64::from(logit)), exact);
                    assert!(
                        ours <= theirs,
                        "{case} {dtype} {isa} {backend}: {ours:e} against {theirs:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn prompts_of_different_lengths_together_are_transformers_alone() {
    for case in CASES {
        let golden = Golden::open(case);
        if !golden.contains("batch_greedy_ids") {
            continue;
        }
        let model = load(case, LoadOptions::new().dtype(DType::F32));
        let ids = golden.ids("input_ids");
        let lengths = golden.ids("batch_prompt_lengths");
        let prompts: Vec<Vec<u32>> =
            lengths.iter().map(|&length| ids[..length as usize].to_vec()).collect();
        let options = greedy(10);
        let mut tokens = vec![Vec::new(); prompts.len()];
        for event in model.generate_tokens(prompts, &options).unwrap() {
            let event = event.unwrap();
            tokens[event.sequence].push(event.token);
        }
        assert_eq!(tokens.concat(), golden.ids("batch_greedy_ids"), "{case}");
    }
}

#[test]
fn the_default_backend_is_grouped_mm() {
    let model = load("olmoe", LoadOptions::new());
    assert_eq!(model.experts_implementation()[""], "grouped_mm");
    assert_eq!(model.dtype(), Some(DType::F16));
    assert_eq!(Cpu::NAME, "CPU");
}
