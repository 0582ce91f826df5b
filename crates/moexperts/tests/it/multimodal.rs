//! Qwen3-VL-MoE against transformers, from image files to text.

use std::sync::LazyLock;

use moexperts::{
    AutoModel, AutoModelForCausalLm, AutoModelForImageTextToText, ChatOptions, CompileMode,
    CompileOptions, CpuOptions, DType, Generation, Image, LanguageModel, LoadOptions, Message,
    PixelValues, Prompt, Stage, Visual,
    core::{Memory as _, Tensor, made},
    cpu::Isa,
};
use serde_json::Value;

use crate::{
    common::{BACKENDS, Golden, assert_close, data, greedy, load_on, on_cpu, rms},
    pictures::{CASE, PROMPTS, golden, visuals},
};

/// Relative to the largest value of a tensor.
const F32_TOLERANCE: f64 = 1e-4;

static MODEL: LazyLock<LanguageModel> = LazyLock::new(|| load(LoadOptions::new()));

fn load(options: LoadOptions) -> LanguageModel {
    AutoModelForImageTextToText::from_pretrained(data(CASE).to_str().unwrap(), options).unwrap()
}

fn image(file: &str) -> Image {
    Image::open(&data(CASE).join(file)).unwrap()
}

fn prompt(name: &str, golden: &Golden) -> Prompt {
    MODEL.prompt_of_tokens(golden.ids("input_ids"), visuals(name, golden)).unwrap()
}

/// The entries of `prompts.json`.
fn prompts() -> Vec<Value> {
    let text = std::fs::read_to_string(data(CASE).join("prompts.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|value| value.as_str().unwrap()).collect()
}

/// The pictures of an entry of `prompts.json`, from the files.
fn files_of(entry: &Value) -> Vec<Visual> {
    let images = strings(&entry["images"]).into_iter();
    let mut visuals: Vec<Visual> =
        images.map(|file| MODEL.prepare_image(&image(file)).unwrap()).collect();
    for video in entry["videos"].as_array().unwrap() {
        let frames: Vec<Image> = strings(&video["frames"]).into_iter().map(image).collect();
        let fps = video["fps"].as_f64().unwrap();
        let indices = video["frames_indices"].as_array().unwrap();
        let seconds: Vec<f64> = indices.iter().map(|index| index.as_f64().unwrap() / fps).collect();
        visuals.push(MODEL.prepare_video(&frames, &seconds).unwrap());
    }
    visuals
}

#[test]
fn pixel_values_of_every_file_are_transformers() {
    let golden = Golden::read(&data(CASE).join("pixels.safetensors"));
    let files = [
        "wide.png",
        "tall.webp",
        "alpha.png",
        "gray.png",
        "frame0.png",
        "frame1.png",
        "frame2.png",
    ];
    for file in files {
        let visual = MODEL.prepare_image(&image(file)).unwrap();
        let grid = visual.pixels().grid_thw().map(|size| size as f64);
        assert_eq!(grid, golden.values(&format!("{file}.grid_thw")), "{file}");
        let expected = golden.values(&format!("{file}.pixel_values"));
        assert_close(file, visual.pixels().values(), expected, 1e-6);
    }
    for name in ["one", "two", "middle", "video"] {
        let golden = self::golden(name);
        let entry = prompts().into_iter().find(|entry| entry["name"] == name).unwrap();
        let pixels: Vec<f32> =
            files_of(&entry).iter().flat_map(|v| v.pixels().values().to_vec()).collect();
        let key = if name == "video" { "pixel_values_videos" } else { "pixel_values" };
        assert_close(name, &pixels, golden.values(key), 1e-6);
    }
}

#[test]
fn a_jpeg_is_turned_upright_and_decoded_as_by_others() {
    let golden = Golden::read(&data(CASE).join("pixels.safetensors"));
    let upright = image("rotated.jpg");
    assert_eq!([upright.width(), upright.height()], [21, 29]);
    // Decoders round differently: by a step or two in a few places.
    let expected = golden.values("rotated.jpg.rgb");
    let differences: Vec<f64> =
        upright.rgb8().iter().zip(expected).map(|(&a, b)| (f64::from(a) - b).abs()).collect();
    assert!(differences.iter().all(|&difference| difference <= 3.0));
    assert!(differences.iter().sum::<f64>() / (differences.len() as f64) < 0.5);
    let visual = MODEL.prepare_image(&upright).unwrap();
    let expected = golden.values("rotated.jpg.pixel_values");
    assert_close("rotated.jpg", visual.pixels().values(), expected, 0.03);
}

#[test]
fn prompts_are_rendered_and_expanded_as_by_transformers() {
    let prompts = prompts();
    assert!(prompts.len() >= 8);
    for entry in &prompts {
        let rendered = entry["rendered"].as_str().unwrap();
        if !entry["messages"].is_null() && entry["add_vision_id"].is_null() {
            let mut messages = entry["messages"].clone();
            // A template sees no names of pictures.
            for message in messages.as_array_mut().unwrap() {
                for part in message["content"].as_array_mut().into_iter().flatten() {
                    let part = part.as_object_mut().unwrap();
                    part.retain(|key, _| key == "type" || key == "text");
                }
            }
            let messages: Vec<Message> = serde_json::from_value(messages).unwrap();
            let template = MODEL.chat_template().unwrap();
            let add = entry["add_generation_prompt"].as_bool().unwrap();
            let options = ChatOptions::new().add_generation_prompt(add);
            assert_eq!(template.render(&messages, &options).unwrap(), rendered);
        }
        let prompt = MODEL.prompt(rendered, files_of(entry), true).unwrap();
        let expected: Vec<u32> = serde_json::from_value(entry["input_ids"].clone()).unwrap();
        assert_eq!(prompt.tokens(), expected, "{rendered}");
    }
}

#[test]
fn positions_are_transformers() {
    for name in PROMPTS {
        let golden = golden(name);
        let prompt = prompt(name, &golden);
        let tokens = prompt.tokens().len();
        let axes = (0..3).flat_map(|axis| (0..tokens).map(move |index| (axis, index)));
        let got: Vec<f64> = axes.map(|(axis, index)| prompt.position(index)[axis] as f64).collect();
        assert_eq!(got, golden.values("position_ids"), "{name}");
        let next = (tokens as f64 + golden.values("rope_delta")[0]) as usize;
        assert_eq!(prompt.position(tokens), [next; 3], "{name}");
        assert_eq!(prompt.position(tokens + 5), [next + 5; 3], "{name}");
    }
}

fn read(tensor: &Tensor) -> Vec<f32> {
    made(|out| on_cpu(&MODEL).device().read_tensor(tensor, out)).unwrap()
}

#[test]
fn features_of_the_vision_tower_are_transformers() {
    let tower = on_cpu(&MODEL).vision_tower().unwrap();
    for name in ["one", "two", "middle", "video"] {
        let golden = golden(name);
        let features: Vec<_> = visuals(name, &golden)
            .iter()
            .map(|visual| tower.features(visual.pixels()).unwrap())
            .collect();
        let embeddings: Vec<f32> = features.iter().flat_map(|f| read(&f.embeddings)).collect();
        let expected = golden.values("vision.pooler_output");
        assert_close(name, &embeddings, expected, F32_TOLERANCE);
        for level in 0..2 {
            let deepstack: Vec<f32> =
                features.iter().flat_map(|f| read(&f.deepstack[level])).collect();
            let expected = golden.values(&format!("vision.deepstack.{level}"));
            assert_close(name, &deepstack, expected, F32_TOLERANCE);
        }
        assert!(features.iter().all(|features| features.deepstack.len() == 2));
    }
}

#[test]
fn the_vision_tower_compiles_and_gives_the_same_features() {
    let folder = tempfile::tempdir().unwrap();
    let model = load(LoadOptions::new());
    let names = ["one", "two", "middle", "video"];
    let features = |model: &LanguageModel, name: &str| -> Vec<Vec<f32>> {
        let mut all = Vec::new();
        for visual in visuals(name, &golden(name)) {
            let features = on_cpu(model).visual_features(&visual).unwrap();
            all.push(read(&features.embeddings));
            all.extend(features.deepstack.iter().map(read));
        }
        all
    };
    let plain: Vec<_> = names.iter().map(|name| features(&model, name)).collect();
    for mode in [CompileMode::Default, CompileMode::MaxAutotune] {
        model.compile(CompileOptions::new(mode).cache_dir(folder.path())).unwrap();
        // Twice, for the memory of the first is used again; the sizes differ.
        for _ in 0..2 {
            for (name, plain) in names.iter().zip(&plain) {
                for (got, expected) in features(&model, name).iter().zip(plain) {
                    let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
                    assert_close(&format!("{name} {mode}"), got, &expected, F32_TOLERANCE);
                }
            }
        }
        let plans = model.explain().unwrap().plans;
        let pictures: Vec<_> =
            plans.iter().filter(|plan| plan.class.starts_with("pictures of up to")).collect();
        assert!(!pictures.is_empty(), "{mode}");
        for plan in pictures {
            assert_eq!((plan.pieces, plan.captured), (1, false));
            assert!(plan.steps.iter().any(|step| step.operation == "full_attention"));
        }
    }
}

#[test]
fn every_stage_in_f32_is_transformers() {
    let model = load(LoadOptions::new());
    for name in PROMPTS {
        let golden = golden(name);
        for backend in BACKENDS {
            model.set_experts_implementation([("text_config", backend)]).unwrap();
            let on_cpu = on_cpu(&model);
            let device = on_cpu.device();
            let mut stages = 0;
            let logits = on_cpu.logits_observed(prompt(name, &golden), &mut |layer, stage| {
                let what = |stage: &str| format!("layers.{layer}.{stage}");
                let check = |stage: &str, tensor| {
                    let got = made(|out| device.read_tensor(tensor, out)).unwrap();
                    let expected = golden.values(&what(stage));
                    assert_close(&format!("{name} {backend}"), &got, expected, F32_TOLERANCE);
                };
                stages += 1;
                match stage {
                    Stage::RouterLogits(logits) => check("router_logits", logits),
                    Stage::ExpertsOutput(output) => check("experts_output", output),
                    Stage::BlockOutput(output) => check("block_output", output),
                    Stage::Routing(routing) => {
                        let routing = device.read_routing(routing).unwrap();
                        assert_eq!(routing.top_k_index(), golden.ids(&what("top_k_index")));
                        let weights = golden.values(&what("top_k_weights"));
                        assert_close(name, routing.top_k_weights(), weights, F32_TOLERANCE);
                    }
                }
            });
            assert_close(name, &logits.unwrap(), golden.values("logits"), F32_TOLERANCE);
            assert_eq!(stages, 3 + 3 * 2);
        }
    }
}

#[test]
fn greedy_tokens_are_transformers_from_the_image_files_on() {
    for entry in prompts().iter().filter(|entry| entry["name"].is_string()) {
        let name = entry["name"].as_str().unwrap();
        let rendered = entry["rendered"].as_str().unwrap();
        let prompt = MODEL.prompt(rendered, files_of(entry), false).unwrap();
        let events = MODEL.generate_tokens(vec![prompt], &greedy(20)).unwrap();
        let tokens: Vec<u32> = events.map(|event| event.unwrap().token).collect();
        assert_eq!(tokens, golden(name).ids("greedy_ids"), "{name}");
    }
}

#[test]
fn compiled_is_transformers_for_every_prompt_with_and_without_pictures() {
    let model = load(LoadOptions::new().dtype(DType::F32));
    for backend in BACKENDS {
        model.set_experts_implementation([("text_config", backend)]).unwrap();
        model.compile(CompileOptions::default()).unwrap();
        for name in PROMPTS {
            let (golden, what) = (golden(name), format!("{name} {backend}"));
            let logits = model.logits(prompt(name, &golden)).unwrap();
            assert_close(&what, &logits, golden.values("logits"), F32_TOLERANCE);
            let events = model.generate_tokens(vec![prompt(name, &golden)], &greedy(20)).unwrap();
            let tokens: Vec<u32> = events.map(|event| event.unwrap().token).collect();
            assert_eq!(tokens, golden.ids("greedy_ids"), "{what}");
        }
        let explanation = model.explain().unwrap();
        let mut with_pictures = 0;
        for plan in &explanation.plans {
            let steps = |operation: &str| -> Vec<Option<usize>> {
                let steps = plan.steps.iter().filter(|step| step.operation == operation);
                steps.map(|step| step.layer).collect()
            };
            let (put, add) = (steps("put_rows"), steps("add_rows"));
            if plan.class.ends_with(", with pictures") {
                with_pictures += 1;
                // Over the placeholders before the first layer, and onto them after two.
                assert_eq!((put, add), (vec![None], vec![Some(0), Some(1)]), "{}", plan.class);
            } else {
                assert!(put.is_empty() && add.is_empty(), "{}", plan.class);
            }
        }
        // Texts of two buckets.
        assert_eq!(with_pictures, 2, "{explanation}");
        assert!(with_pictures < explanation.plans.len(), "{explanation}");
    }
}

#[test]
fn prompts_with_and_without_pictures_together_are_each_alone() {
    let goldens = PROMPTS.map(golden);
    let prompts: Vec<Prompt> =
        PROMPTS.iter().zip(&goldens).map(|(name, golden)| prompt(name, golden)).collect();
    let mut tokens = vec![Vec::new(); PROMPTS.len()];
    for event in MODEL.generate_tokens(prompts, &greedy(20)).unwrap() {
        let event = event.unwrap();
        tokens[event.sequence].push(event.token);
    }
    for (golden, tokens) in goldens.iter().zip(&tokens) {
        assert_eq!(*tokens, golden.ids("greedy_ids"));
    }
}

#[test]
fn half_precision_is_no_further_from_f64_than_transformers() {
    for (dtype, theirs) in [(DType::Bf16, "logits_bf16"), (DType::F16, "logits_f16")] {
        for isa in Isa::available() {
            let model = load_on(CASE, CpuOptions { isa: Some(isa), threads: None }, dtype);
            for backend in BACKENDS {
                model.set_experts_implementation(backend).unwrap();
                for name in PROMPTS {
                    let golden = golden(name);
                    let exact = golden.values("logits_f64");
                    let theirs = rms(golden.values(theirs).iter().copied(), exact);
                    let logits = model.logits(prompt(name, &golden)).unwrap();
                    let last = &logits[logits.len() - exact.len()..];
                    let ours = rms(last.iter().map(|&logit| f64::from(logit)), exact);
                    assert!(
                        ours <= theirs,
                        "{name} {dtype} {isa} {backend}: {ours:e} against {theirs:e}"
                    );
                }
            }
        }
    }
}

/// What a session has read counts only as far as the pictures are the same, and an image may be
/// read in two halves.
#[test]
fn a_session_goes_on_where_prompts_differ() {
    let golden = golden("two");
    let whole = prompt("two", &golden);
    let answer = |prompt: &Prompt| -> Vec<u32> {
        let events = MODEL.generate_tokens(vec![prompt.clone()], &greedy(4)).unwrap();
        events.map(|event| event.unwrap().token).collect()
    };
    let after = |first: &Prompt, second: &Prompt| -> (Vec<u32>, usize) {
        let mut generation = MODEL.generate_tokens(vec![first.clone()], &greedy(2)).unwrap();
        generation.by_ref().for_each(|event| {
            event.unwrap();
        });
        let session = generation.into_session();
        let mut next = MODEL.continue_tokens(session, vec![second.clone()], &greedy(4)).unwrap();
        let tokens = next.by_ref().map(|event| event.unwrap().token).collect();
        (tokens, next.stats().prompt_tokens)
    };
    let tokens = whole.tokens().len();
    let first_image = golden.ids("input_ids").iter().position(|&id| id == 292).unwrap();
    assert_eq!(after(&whole, &whole), (answer(&whole), 1));

    // Its last token is an image's last row, which is read again without the others.
    let end = first_image + 10;
    let ends_in_an_image = MODEL
        .prompt_of_tokens(
            golden.ids("input_ids")[..end].to_vec(),
            visuals("two", &golden)[..1].to_vec(),
        )
        .unwrap();
    assert_eq!(after(&ends_in_an_image, &ends_in_an_image), (answer(&ends_in_an_image), 1));
    assert_eq!(after(&ends_in_an_image, &whole), (answer(&whole), tokens - end));

    // Other pixels behind the same placeholders: everything from the first image on is read anew.
    let mut pictures = visuals("two", &golden);
    let grid = pictures[0].pixels().grid_thw();
    let black = PixelValues::new(grid, 96, vec![0.0; pictures[0].pixels().values().len()]);
    pictures[0] = Visual::image(black.unwrap());
    let other = MODEL.prompt_of_tokens(golden.ids("input_ids"), pictures).unwrap();
    assert_ne!(answer(&other), Vec::<u32>::new());
    assert_eq!(after(&other, &whole), (answer(&whole), tokens - first_image));

    // The same placeholders without a picture, after one with it and before.
    let bare = Prompt::from(golden.ids("input_ids"));
    assert_ne!(answer(&bare), answer(&whole));
    assert_eq!(after(&whole, &bare), (answer(&bare), tokens - first_image));
    assert_eq!(after(&bare, &whole), (answer(&whole), tokens - first_image));

    // A text that shares the beginning of the first image's placeholders with nothing behind them.
    let text = Prompt::from(golden.ids("input_ids")[..first_image].to_vec());
    assert_eq!(after(&text, &whole), (answer(&whole), tokens - first_image));
}

#[test]
fn a_generation_counts_the_patches_it_was_the_first_to_read() {
    let prompt = prompt("two", &golden("two"));
    let patches = |generation: &mut Generation<'_>| {
        generation.by_ref().for_each(|event| {
            event.unwrap();
        });
        generation.stats().patches
    };
    let mut first = MODEL.generate_tokens(vec![prompt.clone()], &greedy(3)).unwrap();
    assert_eq!(patches(&mut first), 40 + 36);
    let session = first.into_session();
    let mut again = MODEL.continue_tokens(session, vec![prompt], &greedy(3)).unwrap();
    assert_eq!(patches(&mut again), 0);
}

#[test]
fn each_backbone_has_its_backend() {
    let map = [("text_config", "batched_mm"), ("vision_config", "eager")];
    let model = load(LoadOptions::new().experts_implementation(map));
    let names = |model: &LanguageModel| -> Vec<(String, String)> {
        model.experts_implementation().into_iter().collect()
    };
    let pairs = |text: &str, vision: &str| {
        let pair = |key: &str, name: &str| (key.to_owned(), name.to_owned());
        vec![pair("text_config", text), pair("vision_config", vision)]
    };
    assert_eq!(names(&model), pairs("batched_mm", "eager"));
    let before = model.experts_implementation();
    model.set_experts_implementation("grouped_mm").unwrap();
    assert_eq!(names(&model), pairs("grouped_mm", "grouped_mm"));
    model.set_experts_implementation([("vision_config", "batched_mm")]).unwrap();
    assert_eq!(names(&model), pairs("grouped_mm", "batched_mm"));
    model.set_experts_implementation([("", "eager"), ("vision_config", "grouped_mm")]).unwrap();
    assert_eq!(names(&model), pairs("eager", "grouped_mm"));
    model.set_experts_implementation(before).unwrap();
    assert_eq!(names(&model), pairs("batched_mm", "eager"));

    let error = model.set_experts_implementation([("audio_config", "eager")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "experts implementation: the model has no sub-config `audio_config`, expected one of \
         `` (the model itself), `text_config`, `vision_config`"
    );
    let error = model.set_experts_implementation([("vision_config", "fast")]).unwrap_err();
    assert!(error.to_string().contains("`fast` is not registered for CPU"), "{error}");
    assert_eq!(names(&model), pairs("batched_mm", "eager"));
}

#[test]
fn each_loader_names_the_other() {
    let error = |result: moexperts::Result<LanguageModel>| result.unwrap_err().to_string();
    let path = |case: &str| data(case).to_str().unwrap().to_owned();
    assert_eq!(
        error(AutoModelForCausalLm::from_pretrained(&path(CASE), LoadOptions::new())),
        "config.json: model_type `qwen3_vl_moe` is loaded by AutoModelForImageTextToText"
    );
    let text = AutoModelForImageTextToText::from_pretrained(&path("mixtral"), LoadOptions::new());
    assert_eq!(error(text), "config.json: model_type `mixtral` is loaded by AutoModelForCausalLm");
    for case in [CASE, "mixtral"] {
        AutoModel::from_pretrained(&path(case), LoadOptions::new()).unwrap();
    }
}

#[test]
fn experts_stored_the_other_way_round_are_converted_and_counted() {
    let report = MODEL.load_report();
    // Two layers of eight experts of three projections [32, 12] in f32.
    assert_eq!(report.converted_bytes, 2 * 8 * 3 * 32 * 12 * 4);
    assert!(report.in_place_bytes > 100_000);
}

#[test]
fn more_and_fewer_placeholders_than_pictures_are_errors() {
    let image = MODEL.prepare_image(&image("gray.png")).unwrap();
    let error = |text: &str, count: usize| {
        MODEL.prompt(text, vec![image.clone(); count], true).unwrap_err().to_string()
    };
    assert_eq!(
        error("<|image_pad|> and <|image_pad|>", 1),
        "the prompt has 2 placeholders `<|image_pad|>`, expected 1, one for each image"
    );
    assert_eq!(
        error("nothing", 2),
        "the prompt has 0 placeholders `<|image_pad|>`, expected 2, one for each image"
    );
    assert_eq!(
        error("<|video_pad|><|image_pad|>", 1),
        "the prompt has 1 placeholder `<|video_pad|>`, expected 0, one for each video"
    );
    let rows = |count| MODEL.prompt_of_tokens(vec![292; count], vec![image.clone()]);
    assert_eq!(
        rows(14).unwrap_err().to_string(),
        "the prompt has 14 placeholders (token 292), expected 15, one for each row of an image"
    );
    assert!(rows(15).is_ok());
    let mut apart = vec![292; 15];
    apart.insert(7, 1);
    assert_eq!(
        MODEL.prompt_of_tokens(apart, vec![image]).unwrap_err().to_string(),
        "option `prompt` is placeholders of another order than its pictures, \
         expected 15 times token 292 side by side for each frame"
    );
}

#[test]
fn a_text_model_says_that_it_cannot_see() {
    let model = crate::common::load("qwen2_moe", LoadOptions::new());
    let error = model.prepare_image(&image("gray.png")).unwrap_err().to_string();
    assert!(error.ends_with("(qwen2_moe) reads text alone, not images"), "{error}");
    let visual = MODEL.prepare_image(&image("gray.png")).unwrap();
    assert!(model.prompt("x", vec![visual.clone()], true).is_err());
    let prompt = MODEL.prompt_of_tokens(vec![292; 15], vec![visual]).unwrap();
    assert!(model.logits(prompt).is_err());
}

#[test]
fn pixels_cut_for_another_model_are_an_error() {
    let tower = on_cpu(&MODEL).vision_tower().unwrap();
    let error = |grid: [usize; 3], patch_len: usize| {
        let values = vec![0.0; grid.iter().product::<usize>() * patch_len];
        let pixels = PixelValues::new(grid, patch_len, values).unwrap();
        tower.features(&pixels).unwrap_err().to_string()
    };
    assert_eq!(
        error([1, 4, 3], 96),
        "pixel grid is 1 x 4 x 3 patches of 96, expected patches of 96 in whole blocks of 2"
    );
    assert!(error([1, 4, 4], 48).contains("patches of 48"));
    assert!(error([0, 4, 4], 96).contains("0 x 4 x 4"));
}
