//! What has to hold on every device: against transformers, and compiled.

use moexperts::{
    CompileMode, CompileOptions, DType, Device, Error, LanguageModel, Stage, core::made,
};

use crate::{
    common::{BACKENDS, Golden, assert_close, greedy, rms},
    pictures,
};

/// Relative to the largest value of a tensor: transformers' own f32 results are this near to f64.
pub(crate) const F32_TOLERANCE: f64 = 1e-4;

/// Every stage of every layer of a model in f32 is transformers', with every backend.
pub(crate) fn every_stage<D: Device>(case: &str, model: &LanguageModel) {
    let on_device = model.on::<D>().unwrap();
    let golden = Golden::open(case);
    let top_k = model.spec().moe_layers().next().unwrap().router.top_k;
    for backend in BACKENDS {
        model.set_experts_implementation(backend).unwrap();
        let mut stages = 0;
        let device = on_device.device();
        let logits = on_device.logits_observed(golden.ids("input_ids"), &mut |layer, stage| {
            let name = |stage: &str| format!("layers.{layer}.{stage}");
            let check = |stage: &str, tensor| {
                let got = made(|out| device.read_tensor(tensor, out)).unwrap();
                let what = format!("{case} {backend} {} {}", D::NAME, name(stage));
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

/// The greedy tokens of a model in f32 are transformers', with every backend.
pub(crate) fn greedy_tokens(case: &str, model: &LanguageModel) {
    let golden = Golden::open(case);
    for backend in BACKENDS {
        model.set_experts_implementation(backend).unwrap();
        let options = greedy(20);
        let events = model.generate_tokens(vec![golden.ids("input_ids")], &options).unwrap();
        let tokens: Vec<u32> = events.map(|event| event.unwrap().token).collect();
        assert_eq!(tokens, golden.ids("greedy_ids"), "{case} {backend} {}", model.device_name());
    }
}

/// The greedy tokens of prompts of different lengths, generated together, are those of each alone.
pub(crate) fn batched_greedy_tokens(case: &str, model: &LanguageModel) {
    let golden = Golden::open(case);
    if !golden.contains("batch_greedy_ids") {
        return;
    }
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
    assert_eq!(tokens.concat(), golden.ids("batch_greedy_ids"), "{case} {}", model.device_name());
}

/// Features, logits and greedy tokens of prompts with pictures, from their pixel values.
pub(crate) fn prompts_with_pictures<D: Device>(model: &LanguageModel) {
    let on_device = model.on::<D>().unwrap();
    for name in pictures::PROMPTS {
        let golden = pictures::golden(name);
        let visuals = pictures::visuals(name, &golden);
        let read =
            |tensor: &D::Tensor| made(|out| on_device.device().read_tensor(tensor, out)).unwrap();
        let tower = on_device.vision_tower().unwrap();
        let features = visuals.iter().map(|visual| tower.features(visual.pixels()).unwrap());
        let embeddings: Vec<f32> = features.flat_map(|f| read(&f.embeddings)).collect();
        if !visuals.is_empty() {
            let expected = golden.values("vision.pooler_output");
            assert_close(name, &embeddings, expected, F32_TOLERANCE);
        }
        let patches: usize = visuals.iter().map(|visual| visual.pixels().patches()).sum();
        let prompt = model.prompt_of_tokens(golden.ids("input_ids"), visuals).unwrap();
        let logits = model.logits(prompt.clone()).unwrap();
        assert_close(name, &logits, golden.values("logits"), F32_TOLERANCE);
        let mut events = model.generate_tokens(vec![prompt], &greedy(20)).unwrap();
        let tokens: Vec<u32> = events.by_ref().map(|event| event.unwrap().token).collect();
        assert_eq!(tokens, golden.ids("greedy_ids"), "{name}");
        assert_eq!(events.stats().patches, patches, "{name}");
    }
}

/// The logits of a model in half precision are no further from f64 than transformers'.
pub(crate) fn half_precision(case: &str, model: &LanguageModel, what: &str) {
    let golden = Golden::open(case);
    let exact = golden.values("logits_f64");
    let theirs = match model.dtype() {
        Some(DType::Bf16) => "logits_bf16",
        Some(DType::F16) => "logits_f16",
        other => panic!("{other:?} is no half precision"),
    };
    let theirs = rms(golden.values(theirs).iter().copied(), exact);
    for backend in BACKENDS {
        model.set_experts_implementation(backend).unwrap();
        let logits = model.logits(golden.ids("input_ids")).unwrap();
        let ours = rms(logits.iter().map(|&logit| f64::from(logit)), exact);
        assert!(ours <= theirs, "{case} {what} {backend}: {ours:e} against {theirs:e}");
    }
}

/// What compiling gives.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expected {
    /// One piece.
    Whole,
    /// A break in every experts layer.
    Pieces,
    /// An error.
    Refused(String),
}

/// What compiling gives on every device, in every mode and dtype.
pub(crate) fn expected(backend: &str, fullgraph: bool) -> Expected {
    match (backend, fullgraph) {
        ("eager", true) => Expected::Refused(
            "fullgraph: experts implementation `eager` breaks the graph at experts: it reads on \
             the host which experts were hit"
                .to_owned(),
        ),
        ("eager", false) => Expected::Pieces,
        _ => Expected::Whole,
    }
}

/// Compiles and runs.
fn outcome(model: &LanguageModel, options: CompileOptions) -> Expected {
    let layers = model.spec().moe_layers().count();
    match model.compile(options) {
        Err(error @ Error::GraphBreak { .. }) => Expected::Refused(error.to_string()),
        Err(error) => panic!("{error}"),
        Ok(report) if report.pieces == 1 => Expected::Whole,
        Ok(report) => {
            assert_eq!(report.pieces, layers + 1);
            Expected::Pieces
        }
    }
}

/// Every cell of backend x mode x fullgraph compiles and agrees with the model not compiled, in a
/// forward and over the steps of a generation, or says why not.
pub(crate) fn compile_matrix(case: &str, dtype: DType, model: &LanguageModel) {
    let folder = tempfile::tempdir().unwrap();
    let ids = Golden::open(case).ids("input_ids");
    for backend in BACKENDS {
        model.set_experts_implementation(backend).unwrap();
        let plain = model.logits(ids.clone()).unwrap();
        let plain: Vec<f64> = plain.into_iter().map(f64::from).collect();
        let text = |model: &LanguageModel| -> Vec<u32> {
            let events = model.generate_tokens(vec![ids.clone()], &greedy(6)).unwrap();
            events.map(|event| event.unwrap().token).collect()
        };
        let plain_text = text(model);
        for mode in CompileMode::ALL {
            for fullgraph in [false, true] {
                let device = model.device_name();
                let what = format!("{backend} {mode} {dtype} fullgraph={fullgraph} {device}");
                let options =
                    CompileOptions::new(mode).fullgraph(fullgraph).cache_dir(folder.path());
                let expected = expected(backend, fullgraph);
                assert_eq!(outcome(model, options), expected, "{what}");
                let is_compiled = !matches!(expected, Expected::Refused(_));
                assert_eq!(model.explain().is_some(), is_compiled, "{what}");
                let logits = model.logits(ids.clone()).unwrap();
                let tolerance = if dtype == DType::F32 { 1e-4 } else { 4.0 * dtype.epsilon() };
                assert_close(&what, &logits, &plain, tolerance);
                // In half precision, two tokens may be too near to call.
                let text = text(model);
                assert!(text == plain_text || dtype != DType::F32, "{what}: {text:?}");
                model.reset_compile();
            }
        }
    }
}
