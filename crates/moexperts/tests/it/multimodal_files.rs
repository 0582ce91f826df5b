//! Qwen3-VL-MoE from other files than those of `testdata`: what means the same, and what cannot be.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use moexperts::{
    Amount, AutoModel, AutoModelForImageTextToText, ChatOptions, Image, LanguageModel, LoadOptions,
    Progress, Result, families, files::ModelFiles,
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Golden, assert_close, data};

const CASE: &str = "qwen3_vl_moe";
const WEIGHTS: &str = "model.safetensors";
const FILES: [&str; 6] = [
    "config.json",
    "tokenizer.json",
    "chat_template.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    WEIGHTS,
];

/// A copy of the checkpoint to change.
fn copy() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in FILES {
        fs::copy(data(CASE).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

fn load(folder: &Path) -> Result<LanguageModel> {
    AutoModelForImageTextToText::from_pretrained(folder.to_str().unwrap(), LoadOptions::new())
}

/// What loading tells of work that takes long.
#[derive(Default)]
struct Told(Mutex<Vec<(&'static str, String, u64)>>);

impl Progress for Told {
    fn start(&self, what: &str, amount: Amount) {
        let Amount::Bytes(bytes) = amount else { panic!("{amount:?}") };
        self.0.lock().unwrap().push(("start", what.to_owned(), bytes));
    }

    fn advance(&self, what: &str, bytes: u64) {
        self.0.lock().unwrap().push(("advance", what.to_owned(), bytes));
    }

    fn finish(&self, what: &str) {
        self.0.lock().unwrap().push(("finish", what.to_owned(), 0));
    }
}

#[test]
fn a_conversion_says_how_far_it_is() {
    let told = Arc::new(Told::default());
    let options = LoadOptions::new().progress(Arc::clone(&told) as Arc<dyn Progress>);
    let path = data(CASE);
    AutoModel::from_pretrained(path.to_str().unwrap(), options).unwrap();
    let what = || "converting the experts".to_owned();
    let all = 2 * 8 * 3 * 32 * 12 * 4;
    let told = told.0.lock().unwrap();
    assert_eq!(told.first(), Some(&("start", what(), all)));
    assert_eq!(told.last(), Some(&("finish", what(), 0)));
    let advanced = &told[1..told.len() - 1];
    assert!(advanced.iter().all(|(kind, of, _)| *kind == "advance" && *of == what()));
    assert_eq!(advanced.iter().map(|(_, _, bytes)| bytes).sum::<u64>(), all);
}

#[test]
fn the_token_that_ends_a_text_may_stand_in_the_text_config() {
    let folder = copy();
    assert_eq!(load(folder.path()).unwrap().generation_config().eos_token_id, [289]);
}

#[test]
fn the_embedding_is_the_head_where_the_top_of_the_config_says_so() {
    let tied = |change: fn(&mut Value)| {
        let folder = copy();
        edit(&folder, "config.json", change);
        let files = ModelFiles::open(folder.path()).unwrap();
        families::describe(&files.config).unwrap().text.tie_word_embeddings
    };
    assert!(!tied(|config| config["text_config"]["tie_word_embeddings"] = json!(true)));
    assert!(tied(|config| config["tie_word_embeddings"] = json!(true)));
}

/// Changes a JSON file of the folder.
fn edit(folder: &TempDir, file: &str, change: impl FnOnce(&mut Value)) {
    let path = folder.path().join(file);
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// What loading says after a change of a JSON file.
#[track_caller]
fn problem(file: &str, change: impl FnOnce(&mut Value)) -> String {
    let folder = copy();
    edit(&folder, file, change);
    load(folder.path()).map(|_| "it loads").unwrap_err().to_string()
}

#[track_caller]
fn config_problem(change: impl FnOnce(&mut Value)) -> String {
    problem("config.json", change)
}

/// A tensor in f32.
#[derive(Debug, Clone, PartialEq)]
struct Tensor {
    shape: Vec<usize>,
    values: Vec<f32>,
}

type Tensors = BTreeMap<String, Tensor>;

/// Changes the weights of the folder.
fn edit_weights(folder: &TempDir, change: impl FnOnce(&mut Tensors)) {
    let path = folder.path().join(WEIGHTS);
    let bytes = fs::read(&path).unwrap();
    let mut tensors: Tensors = SafeTensors::deserialize(&bytes)
        .unwrap()
        .tensors()
        .into_iter()
        .map(|(name, tensor)| {
            assert_eq!(tensor.dtype(), Dtype::F32);
            let values = tensor.data().chunks_exact(4);
            let values = values.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            (name, Tensor { shape: tensor.shape().to_vec(), values })
        })
        .collect();
    change(&mut tensors);
    let bytes: Vec<Vec<u8>> = tensors
        .values()
        .map(|tensor| tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, tensor), bytes)| {
        (name, TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).unwrap())
    });
    // The old file may be mapped by a model that was loaded from it.
    fs::remove_file(&path).unwrap();
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[track_caller]
fn weights_problem(change: impl FnOnce(&mut Tensors)) -> String {
    let folder = copy();
    edit_weights(&folder, change);
    load(folder.path()).map(|_| "it loads").unwrap_err().to_string()
}

/// [n, a, b] as [n, b, a].
fn exchange(tensor: &mut Tensor) {
    let [n, a, b] = tensor.shape[..] else { panic!("{:?}", tensor.shape) };
    let places = (0..n).flat_map(|n| (0..b).flat_map(move |j| (0..a).map(move |i| [n, i, j])));
    tensor.values = places.map(|[n, i, j]| tensor.values[(n * a + i) * b + j]).collect();
    tensor.shape = vec![n, b, a];
}

fn experts(tensors: &mut Tensors) -> impl Iterator<Item = (&String, &mut Tensor)> {
    tensors.iter_mut().filter(|(name, _)| name.contains(".mlp.experts."))
}

/// Fails unless the model gives the logits of a golden prompt, from the image file on.
#[track_caller]
fn assert_golden(model: &LanguageModel) {
    let golden = Golden::read(&data(CASE).join("golden_middle.safetensors"));
    let image = Image::open(&data(CASE).join("frame1.png")).unwrap();
    let visual = model.prepare_image(&image).unwrap();
    let text = "Look: <|vision_start|><|image_pad|><|vision_end|> the end here";
    let prompt = model.prompt(text, vec![visual], true).unwrap();
    assert_eq!(prompt.tokens(), golden.ids("input_ids"));
    assert_close("logits", &model.logits(prompt).unwrap(), golden.values("logits"), 1e-4);
}

/// As transformers 5 saves them.
#[test]
fn experts_stored_as_they_are_used_are_not_converted() {
    let folder = copy();
    edit_weights(&folder, |tensors| {
        assert_eq!(experts(tensors).map(|(_, tensor)| exchange(tensor)).count(), 4);
    });
    let model = load(folder.path()).unwrap();
    assert_eq!(model.load_report().converted_bytes, 0);
    assert_golden(&model);
}

/// Gate and up together are a square then, which is of both layouts.
#[test]
fn experts_half_as_wide_as_the_model_are_told_apart() {
    const WIDE: usize = 16;
    /// Zeros behind each of `parts` parts of `len` values: experts of more values, which say 0.
    fn pad(tensor: &mut Tensor, parts: usize, by: usize) {
        let [n, rows, cols] = tensor.shape[..] else { panic!() };
        let part = tensor.values.len() / parts;
        tensor.values = (0..parts)
            .flat_map(|index| {
                let own = tensor.values[index * part..(index + 1) * part].iter().copied();
                own.chain(std::iter::repeat_n(0.0, by)).collect::<Vec<_>>()
            })
            .collect();
        let grown = tensor.values.len() / n;
        tensor.shape =
            if rows == 32 { vec![n, rows, grown / rows] } else { vec![n, grown / cols, cols] };
    }
    for transformers_5 in [false, true] {
        let folder = copy();
        edit(&folder, "config.json", |config| {
            config["text_config"]["moe_intermediate_size"] = json!(WIDE);
        });
        edit_weights(&folder, |tensors| {
            for (name, tensor) in experts(tensors) {
                let n = tensor.shape[0];
                match name.ends_with("gate_up_proj") {
                    // Each of the H rows is a row of gate and one of up.
                    true => pad(tensor, n * 32 * 2, WIDE - 12),
                    false => pad(tensor, n, (WIDE - 12) * 32),
                }
                if transformers_5 {
                    exchange(tensor);
                }
            }
            let gate_up = &tensors["model.language_model.layers.0.mlp.experts.gate_up_proj"];
            assert_eq!(gate_up.shape, [8, 32, 32]);
        });
        let model = load(folder.path()).unwrap();
        assert_eq!(model.load_report().converted_bytes == 0, transformers_5);
        assert_golden(&model);
    }
}

#[test]
fn the_settings_of_the_processors_may_be_in_one_file() {
    let folder = copy();
    let own = |file: &str| -> Value {
        let path = folder.path().join(file);
        let value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        fs::remove_file(path).unwrap();
        value
    };
    let both = json!({
        "image_processor": own("preprocessor_config.json"),
        "processor_class": "Qwen3VLProcessor",
        "video_processor": own("video_preprocessor_config.json"),
    });
    fs::write(folder.path().join("processor_config.json"), both.to_string()).unwrap();
    let model = load(folder.path()).unwrap();
    assert_golden(&model);
    let frame = Image::open(&data(CASE).join("frame0.png")).unwrap();
    let video = model.prepare_video(&[frame.clone(), frame], &[0.0, 1.0]).unwrap();
    assert_eq!(video.pixels().grid_thw()[0], 1);

    edit(&folder, "processor_config.json", |file| file["image_processor"]["patch_size"] = json!(8));
    let error = load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("patch_size` is 8, expected 4"), "{error}");
}

#[test]
fn the_template_of_its_own_file_goes_first() {
    let folder = copy();
    let rendered = || {
        let model = load(folder.path()).unwrap();
        model.chat_template().map(|template| template.render(&[], &ChatOptions::new()).unwrap())
    };
    let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
    fs::remove_file(folder.path().join("chat_template.json")).unwrap();
    assert_eq!(rendered(), None);
    write("tokenizer_config.json", r#"{"chat_template": "of the tokenizer"}"#);
    assert_eq!(rendered().as_deref(), Some("of the tokenizer"));
    write("chat_template.json", r#"{"chat_template": "of json"}"#);
    assert_eq!(rendered().as_deref(), Some("of json"));
    write("chat_template.jinja", "of jinja");
    assert_eq!(rendered().as_deref(), Some("of jinja"));
}

#[test]
fn a_sub_config_that_is_missing_has_the_defaults_of_its_class() {
    for (key, got, hidden) in [("text_config", 32, 2048), ("vision_config", 3584, 32)] {
        assert_eq!(
            config_problem(|config| config[key] = Value::Null),
            format!(
                "config.json: key `vision_config.out_hidden_size` is {got}, expected {hidden}, the \
                 hidden_size of text_config"
            )
        );
        assert_eq!(
            config_problem(|config| config[key] = json!(3)),
            format!("config.json: key `{key}` is 3, expected an object")
        );
    }
}

#[test]
fn a_key_of_a_sub_config_that_is_null() {
    assert_eq!(
        config_problem(|config| config["vision_config"]["depth"] = Value::Null),
        "config.json: key `vision_config.depth` is null, expected a number, or no such key"
    );
    assert_eq!(
        config_problem(|config| config["text_config"]["hidden_size"] = Value::Null),
        "config.json: key `text_config.hidden_size` is null, expected a number, or no such key"
    );
}

#[test]
fn a_vision_tower_no_decoder_can_read() {
    let problem =
        |key: &str, value: Value| config_problem(|config| config["vision_config"][key] = value);
    assert_eq!(
        problem("out_hidden_size", json!(48)),
        "config.json: key `vision_config.out_hidden_size` is 48, expected 32, the hidden_size of \
         text_config"
    );
    assert_eq!(
        problem("num_position_embeddings", json!(24)),
        "config.json: key `vision_config.num_position_embeddings` is 24, expected a square"
    );
    assert_eq!(
        problem("num_heads", json!(5)),
        "config.json: key `vision_config.num_heads` is 5, expected a number of heads whose width \
         is a multiple of 4"
    );
    assert_eq!(
        problem("num_heads", json!(12)),
        "config.json: key `vision_config.num_heads` is 12, expected a number of heads whose width \
         is a multiple of 4"
    );
    assert_eq!(
        problem("deepstack_visual_indexes", json!([0, 4])),
        "config.json: key `vision_config.deepstack_visual_indexes` is [0,4], expected layers below 4"
    );
    assert_eq!(
        problem("hidden_act", json!("tanh")),
        "config.json: hidden_act `tanh` is not known, \
         expected one of `silu`, `gelu`, `gelu_pytorch_tanh`, `relu2`"
    );
    for key in ["depth", "hidden_size", "patch_size", "spatial_merge_size", "in_channels"] {
        for value in [json!(0), json!(1_u64 << 40), json!(u64::MAX), json!(-1), json!("4")] {
            let error = problem(key, value.clone());
            let words = format!("config.json: key `vision_config.{key}` is {value}, expected ");
            assert!(error.starts_with(&words), "{error}");
        }
    }
}

#[test]
fn images_cut_otherwise_than_the_tower_reads_them() {
    for (key, value, expected) in
        [("patch_size", 8, 4), ("temporal_patch_size", 1, 2), ("merge_size", 1, 2)]
    {
        assert_eq!(
            problem("preprocessor_config.json", |file| file[key] = json!(value)),
            format!(
                "preprocessor_config.json: key `{key}` is {value}, expected {expected}, \
                 as vision_config of config.json has it"
            )
        );
    }
}

#[test]
fn videos_cut_otherwise_than_the_tower_reads_them() {
    for (key, value, expected) in
        [("patch_size", 8, 4), ("temporal_patch_size", 1, 2), ("merge_size", 1, 2)]
    {
        assert_eq!(
            problem("video_preprocessor_config.json", |file| file[key] = json!(value)),
            format!(
                "video_preprocessor_config.json: key `{key}` is {value}, expected {expected}, \
                 as vision_config of config.json has it"
            )
        );
    }
}

#[test]
fn settings_of_the_processors_that_are_missing() {
    let folder = copy();
    fs::remove_file(folder.path().join("video_preprocessor_config.json")).unwrap();
    let model = load(folder.path()).unwrap();
    assert_golden(&model);
    let frame = Image::open(&data(CASE).join("frame0.png")).unwrap();
    assert_eq!(
        model.prepare_video(&[frame.clone(), frame], &[0.0, 1.0]).unwrap_err().to_string(),
        "video_preprocessor_config.json: missing, it says how the frames of a video are resized"
    );
    fs::remove_file(folder.path().join("preprocessor_config.json")).unwrap();
    assert_eq!(
        load(folder.path()).unwrap_err().to_string(),
        format!(
            "preprocessor_config.json: missing in {}; it says how images are resized",
            folder.path().display()
        )
    );
}

#[test]
fn placeholders_without_a_token() {
    for key in ["image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"]
    {
        assert_eq!(
            config_problem(|config| config[key] = json!(999)),
            format!("config.json: key `{key}` is 999, which is no token of the tokenizer")
        );
    }
}

#[test]
fn vision_weights_that_are_missing_or_of_another_shape() {
    for (name, shape) in [
        ("model.visual.patch_embed.proj.weight", "[24, 3, 2, 4, 4]"),
        ("model.visual.pos_embed.weight", "[25, 24]"),
        ("model.visual.blocks.3.attn.qkv.weight", "[72, 24]"),
        ("model.visual.blocks.0.attn.qkv.bias", "[72]"),
        ("model.visual.blocks.0.norm1.bias", "[24]"),
        ("model.visual.merger.linear_fc2.weight", "[32, 96]"),
        ("model.visual.deepstack_merger_list.1.norm.weight", "[96]"),
    ] {
        let missing = weights_problem(|tensors| {
            tensors.remove(name).unwrap();
        });
        let words = format!("model.safetensors: missing tensor `{name}`");
        assert!(missing.starts_with(&words), "{missing}");
        let other = weights_problem(|tensors| {
            let tensor = tensors.get_mut(name).unwrap();
            *tensor = Tensor { shape: vec![2, 3], values: vec![0.0; 6] };
        });
        assert_eq!(
            other,
            format!("model.safetensors: tensor `{name}` has shape [2, 3], expected {shape}")
        );
    }
}

#[test]
fn experts_of_neither_layout() {
    let name = "model.language_model.layers.2.mlp.experts";
    let reshaped = |tensor: &'static str, shape: [usize; 3]| {
        weights_problem(|tensors| {
            let tensor = tensors.get_mut(&format!("{name}.{tensor}")).unwrap();
            *tensor = Tensor { shape: shape.to_vec(), values: vec![0.0; shape.iter().product()] };
        })
    };
    assert_eq!(
        reshaped("gate_up_proj", [8, 31, 24]),
        format!(
            "model.safetensors: tensor `{name}.gate_up_proj` has shape [8, 31, 24], \
             expected [8, 32, 24]"
        )
    );
    assert_eq!(
        reshaped("down_proj", [8, 32, 12]),
        format!(
            "model.safetensors: tensor `{name}.down_proj` has shape [8, 32, 12], \
             expected [8, 12, 32]"
        )
    );
    let missing = weights_problem(|tensors| {
        tensors.remove(&format!("{name}.down_proj")).unwrap();
    });
    let words = format!("model.safetensors: missing tensor `{name}.down_proj`");
    assert!(missing.starts_with(&words), "{missing}");
}

#[test]
fn a_model_of_text_alone_needs_no_files_for_images() {
    let path = data("mixtral");
    let model = AutoModel::from_pretrained(path.to_str().unwrap(), LoadOptions::new()).unwrap();
    assert!(model.vision().is_none());
}
