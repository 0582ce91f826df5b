//! Files that strangers wrote: real ones with values changed, bytes flipped and ends cut off. Each is
//! read or refused; none makes the program panic, or allocate what a number in it says.

use std::{fs, path::Path, sync::Arc};

use moexperts::{
    AutoModel, ChatOptions, ChatTemplate, DType, GenerateOptions, GenerationConfig, Image,
    LoadOptions, Message, SpecialTokens, Tokenizer, Warnings, checkpoint::Checkpoint,
    config::Config, families, files::ModelFiles, weights::AsPublished,
};
use moexperts_core::Storage;
use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{CASES, data, greedy};

#[derive(Debug)]
struct Bytes(Vec<u8>);

impl Storage for Bytes {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A change of one value of a JSON file: which one, and what it becomes; `None` removes it.
type Edit = (Index, Option<Value>);

/// Changes that keep most of a file as it is, so that what reads it gets far.
fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let numbers = vec![json!(0), json!(1), json!(2), json!(3), json!(5), json!(7), json!(1 << 20)];
    let impossible = vec![
        json!(-1),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0.5),
        json!(-0.5),
        json!(1e-300),
        json!(1e300),
        json!(null),
        json!(true),
        json!(""),
        json!("silu"),
        json!("../ä"),
        json!([]),
        json!([0, 2]),
        json!({}),
        json!({"rope_type": "yarn", "factor": 2}),
        json!([[[]]]),
    ];
    let value = prop_oneof![
        Just(None),
        prop::sample::select(numbers).prop_map(Some).boxed(),
        prop::sample::select(impossible).prop_map(Some).boxed(),
    ];
    vec((any::<Index>(), value), 1..4)
}

/// The places of all values below a value, as JSON pointers.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(array) => {
            array.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        _ => return,
    };
    for (key, child) in children {
        let place = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
        places(child, &place, found);
        found.push(place);
    }
}

fn edited(mut json: Value, edits: &[Edit]) -> Value {
    for (index, value) in edits {
        let mut all = Vec::new();
        places(&json, "", &mut all);
        if all.is_empty() {
            break;
        }
        let (parent, key) = all[index.index(all.len())].rsplit_once('/').unwrap();
        let key = key.replace("~1", "/").replace("~0", "~");
        match (json.pointer_mut(parent).unwrap(), value) {
            (Value::Object(object), Some(value)) => {
                object.insert(key, value.clone());
            }
            (Value::Object(object), None) => {
                object.remove(&key);
            }
            (Value::Array(array), value) => {
                let index: usize = key.parse().unwrap();
                match value {
                    Some(value) => array[index] = value.clone(),
                    None => drop(array.remove(index)),
                }
            }
            _ => unreachable!("only objects and arrays have children"),
        }
    }
    json
}

fn json_of(case: &str, file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(data(case).join(file)).unwrap()).unwrap()
}

fn config(case: &str, file: &str, edits: &[Edit]) -> Config {
    Config::parse(file, &edited(json_of(case, file), edits).to_string()).unwrap()
}

/// A change of the bytes of a file.
#[derive(Debug, Clone)]
enum Damage {
    Flipped(Index, u8),
    Cut(Index),
    Zeroed(Index, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<Index>(), 1..=u8::MAX).prop_map(|(at, bits)| Damage::Flipped(at, bits)),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => (any::<Index>(), 1..16_usize).prop_map(|(at, len)| Damage::Zeroed(at, len)),
    ]
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        let len = bytes.len();
        match damage {
            Damage::Flipped(at, bits) => bytes[at.index(len)] ^= bits,
            Damage::Cut(at) => bytes.truncate(at.index(len)),
            Damage::Zeroed(at, zeros) => {
                let start = at.index(len);
                bytes[start..(start + zeros).min(len)].fill(0);
            }
        }
    }
    bytes
}

/// A folder with the files of a case, of which some are changed.
fn folder(case: &str, changed: &[(&str, String)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(data(case)).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".json") || name.starts_with("model") {
            link(&path, &folder.path().join(name));
        }
    }
    for (name, text) in changed {
        replace(&folder.path().join(name), text);
    }
    folder
}

/// Writes a new file; what was there before is linked to the test data.
fn replace(path: &Path, bytes: impl AsRef<[u8]>) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
}

fn link(from: &Path, to: &Path) {
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop)).unwrap();
}

fn with_multimodal() -> impl Iterator<Item = &'static str> {
    CASES.into_iter().chain(["qwen3_vl_moe"])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_changed_config_is_described_or_refused(
        case in prop::sample::select(with_multimodal().collect::<Vec<_>>()),
        edits in edits(),
    ) {
        let Ok(spec) = families::describe(&config(case, "config.json", &edits)) else {
            return Ok(());
        };
        prop_assert!(!spec.tensors(&AsPublished).is_empty());
        let text = &spec.text;
        prop_assert!(text.active_weights() > 0 && text.total_weights() > 0);
        prop_assert!(text.bytes_per_token(DType::F32) > 0);
        prop_assert_eq!(text.states().len(), text.layers.len());
        for rope in &text.ropes {
            let frequencies = rope.inv_freq(100);
            prop_assert!(2 * frequencies.len() == rope.dims);
            prop_assert!(frequencies.iter().all(|frequency| frequency.is_finite()));
            prop_assert!((rope.attention_scaling() as f32).is_finite());
        }
        if let Some(vision) = &spec.vision {
            prop_assert!(vision.total_weights() > 0 && vision.flops([1, 2, 2]) > 0);
            prop_assert!(vision.patch_len() > 0 && vision.merged_size() > 0);
        }
    }

    #[test]
    fn changed_json_beside_the_weights_is_read_or_refused(edits in edits(), cut in any::<Index>()) {
        let case = "qwen3_vl_moe";
        let file = config(case, "generation_config.json", &edits);
        let _ = GenerationConfig::read(Some(&file), None, None, &mut Warnings::default())
            .map(|file| GenerateOptions::default().resolve(&file));
        let tokenizer_config = config(case, "tokenizer_config.json", &edits);
        let template = json_of(case, "chat_template.json")["chat_template"].clone();
        let template = template.as_str().unwrap();
        let (end, _) = template.char_indices().nth(cut.index(template.chars().count())).unwrap();
        for template in [template, &template[..end]] {
            let special =
                SpecialTokens::read(Some(&tokenizer_config), None, &mut Warnings::default());
            if let Ok(template) =
                special.and_then(|special| ChatTemplate::new(template, &special))
            {
                let _ = template.render(&[Message::text("user", "Hello")], &ChatOptions::new());
            }
        }
    }

    #[test]
    fn a_changed_tokenizer_is_read_or_refused(edits in edits()) {
        let file = "tokenizer.json";
        let json = edited(json_of("qwen3_vl_moe", file), &edits).to_string();
        if let Ok(tokenizer) = Tokenizer::from_bytes(file, json.as_bytes())
            && let Ok(tokens) = tokenizer.encode("Hello, wörld", true)
        {
            let _ = tokenizer.decode(&tokens, false);
        }
    }

    #[cfg(feature = "images")]
    #[test]
    fn a_damaged_picture_is_decoded_or_refused(
        file in prop::sample::select(&["gray.png", "alpha.png", "rotated.jpg", "tall.webp"][..]),
        damage in vec(damage(), 1..4),
    ) {
        let bytes = fs::read(data("qwen3_vl_moe").join(file)).unwrap();
        if let Ok(image) = Image::decode(file, &damaged(bytes, &damage)) {
            prop_assert_eq!(image.rgb8().len(), 3 * image.width() * image.height());
        }
    }
}

proptest! {
    // Each case opens files.
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_changed_header_is_read_or_refused(edits in edits()) {
        let bytes = fs::read(data("qwen3_moe").join("model-00003-of-00003.safetensors")).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let (header, tensors) = bytes[8..].split_at(length);
        let header = edited(serde_json::from_slice(header).unwrap(), &edits).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(tensors);
        let Ok(checkpoint) = Checkpoint::from_storage("f", Arc::new(Bytes(file))) else {
            return Ok(());
        };
        for (name, shape, _) in checkpoint.tensors() {
            prop_assert!(checkpoint.filters(name, shape).is_ok() || shape.is_empty(), "{}", name);
        }
    }

    #[test]
    fn a_changed_index_opens_shards_or_is_refused(edits in edits()) {
        let index = "model.safetensors.index.json";
        let json = edited(json_of("qwen3_moe", index), &edits).to_string();
        let folder = folder("qwen3_moe", &[(index, json)]);
        let _ = Checkpoint::open(folder.path());
    }

    #[test]
    fn changed_files_of_a_tokenizer_are_read_or_refused(
        (config, map, added, tokenizer) in (edits(), edits(), edits(), any::<bool>()),
    ) {
        let case = "qwen2_moe";
        let token = json!({"content": "<img>", "lstrip": false, "normalized": true, "special": true});
        let mut tokenizer_config = json_of(case, "tokenizer_config.json");
        tokenizer_config["extra_special_tokens"] = json!({"image_token": token, "more": "<more>"});
        let special_tokens = json!({
            "bos_token": "<s>", "eos_token": token, "additional_special_tokens": ["<a>", token],
        });
        let added_tokens = json!({"<tool>": 300, "<img>": 301});
        let folder = folder(case, &[
            ("tokenizer_config.json", edited(tokenizer_config, &config).to_string()),
            ("special_tokens_map.json", edited(special_tokens, &map).to_string()),
            ("added_tokens.json", edited(added_tokens, &added).to_string()),
        ]);
        if !tokenizer {
            let json = json_of(case, "tokenizer.json");
            fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
            let vocab = edited(json["model"]["vocab"].clone(), &map).to_string();
            fs::write(folder.path().join("vocab.json"), vocab).unwrap();
            fs::write(folder.path().join("merges.txt"), "#version: 0.2\nt h\nth e\nx\n").unwrap();
        }
        let Ok(files) = ModelFiles::open(folder.path()) else { return Ok(()) };
        let mut warnings = Warnings::default();
        if let Ok(Some(tokenizer)) = Tokenizer::read(&files, &mut warnings)
            && let Ok(tokens) = tokenizer.encode("the <img> Hello, wörld", true)
        {
            let _ = tokenizer.decode(&tokens, false);
        }
        if let Ok(Some(template)) = ChatTemplate::read(&files, &mut warnings) {
            let _ = template.render(&[Message::text("user", "Hello")], &ChatOptions::new());
        }
    }

    #[test]
    fn a_damaged_file_of_a_model_is_read_or_refused(
        file in prop::sample::select(&[
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "added_tokens.json",
            "chat_template.jinja",
            "chat_template.json",
            "preprocessor_config.json",
        ][..]),
        damage in vec(damage(), 1..4),
        any in prop::option::weighted(0.2, vec(any::<u8>(), 0..40)),
    ) {
        let case = "qwen3_vl_moe";
        let folder = folder(case, &[]);
        let path = folder.path().join(file);
        let bytes = fs::read(&path).unwrap_or_else(|_| match file {
            "chat_template.jinja" => b"{% for m in messages %}{{ m.content }}{% endfor %}".to_vec(),
            _ => br#"{"bos_token": "<s>", "<tool>": 300}"#.to_vec(),
        });
        replace(&path, any.unwrap_or_else(|| damaged(bytes, &damage)));
        let path = folder.path().to_str().unwrap();
        if let Ok(model) = AutoModel::from_pretrained(path, LoadOptions::new()) {
            let _ = model.generate("Hello", &greedy(2));
            let messages = [Message::text("user", "Hello")];
            if let Ok(prompt) = model.chat_prompt(&messages, Vec::new(), &ChatOptions::new()) {
                let _ = model.generate_prompt(prompt, &greedy(2));
            }
        }
    }

    #[test]
    fn a_changed_image_processor_reads_pictures_or_refuses_them(edits in edits()) {
        let case = "qwen3_vl_moe";
        let files = ["preprocessor_config.json", "video_preprocessor_config.json"];
        let changed = files.map(|file| (file, edited(json_of(case, file), &edits).to_string()));
        let folder = folder(case, &changed);
        let path = folder.path().to_str().unwrap();
        if let Ok(model) = AutoModel::from_pretrained(path, LoadOptions::new()) {
            let picture = Image::from_rgb8(5, 9, vec![200; 5 * 9 * 3]).unwrap();
            let image = model.prepare_image(&picture);
            let video = model.prepare_video(&[picture.clone(), picture], &[0.0, 0.5]);
            for visual in [image, video].into_iter().flatten() {
                let _ = model.read_picture(&visual);
            }
        }
    }

    #[test]
    fn a_model_with_a_changed_config_generates_or_is_refused(
        case in prop::sample::select(&["qwen2_moe", "qwen3_vl_moe"][..]),
        edits in edits(),
    ) {
        let changed = edited(json_of(case, "config.json"), &edits).to_string();
        let folder = folder(case, &[("config.json", changed)]);
        let path = folder.path().to_str().unwrap();
        if let Ok(model) = AutoModel::from_pretrained(path, LoadOptions::new()) {
            let _ = model.generate("a", &greedy(2));
        }
    }
}
