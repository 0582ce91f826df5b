//! Configs and checkpoints that do not agree: resolved as transformers does, and told.

use std::{fs, path::Path};

use moexperts::{AutoModel, DType, Error, LanguageModel, LoadOptions, families, files::ModelFiles};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

use crate::{
    common::{CASES, Golden, assert_close, data, load},
    pictures,
};

/// Name, element type, shape and bytes.
#[derive(Clone)]
struct Tensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn tensors(case: &str) -> Vec<Tensor> {
    let bytes = fs::read(data(case).join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (String, TensorView<'_>)| {
        let (dtype, shape, bytes) = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        Tensor { name, dtype, shape, bytes }
    };
    file.tensors().into_iter().map(tensor).collect()
}

impl Tensor {
    fn values(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::F32 => {
                let words = self.bytes.as_chunks().0.iter();
                words.map(|&word| f32::from_le_bytes(word)).collect()
            }
            Dtype::BF16 => {
                let words = self.bytes.as_chunks().0.iter();
                words
                    .map(|&word| f32::from_bits(u32::from(u16::from_le_bytes(word)) << 16))
                    .collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// The same values in another type, which holds them exactly.
    fn to(&mut self, dtype: Dtype) {
        let values = self.values();
        self.bytes = match dtype {
            Dtype::F64 => values.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect(),
            Dtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Dtype::F16 => {
                values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect()
            }
            Dtype::BF16 => {
                values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect()
            }
            other => panic!("{other:?}"),
        };
        self.dtype = dtype;
    }
}

/// The files of a case with its config and tensors changed.
fn write(folder: &Path, case: &str, edits: &Value, tensors: &[Tensor]) {
    let text = fs::read_to_string(data(case).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    for (key, value) in edits.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    if case == pictures::CASE {
        for file in ["preprocessor_config.json", "video_preprocessor_config.json", "tokenizer.json"]
        {
            fs::copy(data(case).join(file), folder.join(file)).unwrap();
        }
    }
    let views = tensors.iter().map(|Tensor { name, dtype, shape, bytes }| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    let image = safetensors::serialize(views, None).unwrap();
    fs::write(folder.join("model.safetensors"), image).unwrap();
}

fn loaded(case: &str, edits: Value, tensors: &[Tensor]) -> Result<LanguageModel, Error> {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), case, &edits, tensors);
    AutoModel::from_pretrained(folder.path().to_str().unwrap(), LoadOptions::new())
}

fn warnings(model: &LanguageModel) -> Vec<&str> {
    // One case has a key that says how it could generate faster.
    model.load_report().warnings.iter().filter(|text| !text.contains("`use_mtp`")).collect()
}

/// Greedy logits as the case's own files give them.
fn same_logits(case: &str, model: &LanguageModel) {
    let ids = Golden::open(case).ids("input_ids");
    let expected = load(case, LoadOptions::new()).logits(&ids).unwrap();
    let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
    assert_close(case, &model.logits(&ids).unwrap(), &expected, 1e-5);
}

#[test]
fn the_cases_are_loaded_without_a_word() {
    for case in CASES.into_iter().chain([pictures::CASE]) {
        let model = AutoModel::from_pretrained(data(case).to_str().unwrap(), LoadOptions::new());
        let model = model.unwrap();
        let of_weights: Vec<_> =
            warnings(&model).into_iter().filter(|text| !text.contains("tokenizer")).collect();
        assert!(of_weights.is_empty(), "{case}: {of_weights:?}");
    }
}

#[test]
fn a_head_that_is_stored_and_differs_is_not_tied() {
    let stored = tensors("mixtral");
    let model = loaded("mixtral", json!({"tie_word_embeddings": true}), &stored).unwrap();
    assert_eq!(
        warnings(&model),
        ["config.json: key `tie_word_embeddings` is true, but `lm_head.weight` is stored and \
          differs from `model.embed_tokens.weight`: they are not tied; correct the key"]
    );
    assert!(!model.spec().tie_word_embeddings);
    same_logits("mixtral", &model);
}

/// The tensors of a tied case with the embedding under the names given.
fn with_table(case: &str, names: &[&str]) -> Vec<Tensor> {
    let (table, mut others): (Vec<_>, Vec<_>) =
        tensors(case).into_iter().partition(|t| t.name == "model.embed_tokens.weight");
    let named = |name: &&str| Tensor { name: (*name).to_owned(), ..table[0].clone() };
    others.extend(names.iter().map(named));
    others
}

#[test]
fn a_head_that_is_stored_and_equal_is_tied() {
    let case = "qwen2_moe_window";
    let names = ["model.embed_tokens.weight", "lm_head.weight"];
    let mut stored = with_table(case, &names);
    // In another type, too, as long as the values are the same.
    for dtype in [Dtype::BF16, Dtype::F32] {
        stored.last_mut().unwrap().to(dtype);
        let model = loaded(case, json!({}), &stored).unwrap();
        assert!(warnings(&model).is_empty(), "{:?}", warnings(&model));
        assert!(model.spec().tie_word_embeddings);
        same_logits(case, &model);
    }
}

#[test]
fn tying_is_symmetric() {
    let case = "qwen2_moe_window";
    let model = loaded(case, json!({}), &with_table(case, &["lm_head.weight"])).unwrap();
    assert!(warnings(&model).is_empty());
    same_logits(case, &model);
}

#[test]
fn a_head_that_is_missing_is_named_with_the_way_out() {
    let case = "qwen2_moe_window";
    let error = loaded(case, json!({"tie_word_embeddings": false}), &tensors(case)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "model.safetensors: missing tensor `lm_head.weight`: config.json does not say that it is \
         the embedding; if it is, write `\"tie_word_embeddings\": true` there"
    );
}

#[test]
fn tensors_that_the_config_has_no_place_for_are_named_once() {
    let case = "qwen2_moe";
    let mut stored = tensors(case);
    let extra = |name: &str| Tensor { name: name.to_owned(), ..stored[0].clone() };
    let ignored = ["model.layers.0.self_attn.rotary_emb.inv_freq", "mtp.fc.weight"].map(extra);
    let surplus = ["visual.merger.weight", "model.layers.9.norm.weight"].map(extra);
    stored.extend(ignored);
    assert!(warnings(&loaded(case, json!({}), &stored).unwrap()).is_empty());
    stored.extend(surplus);
    let model = loaded(case, json!({"qkv_bias": false}), &stored).unwrap();
    assert_eq!(
        warnings(&model),
        ["model.safetensors: 11 tensors are not used, the model that config.json describes has \
          none of the name: `model.layers.*.norm.weight`, `model.layers.*.self_attn.k_proj.bias` \
          (3), `model.layers.*.self_attn.q_proj.bias` (3), `model.layers.*.self_attn.v_proj.bias` \
          (3) and 1 more kinds"]
    );
    // The other way round, weights are missing.
    let error = loaded("mixtral", json!({"num_hidden_layers": 4}), &tensors("mixtral"));
    assert!(error.unwrap_err().to_string().contains("missing tensor `model.layers.3."));
}

#[test]
fn names_without_the_prefix_of_the_base_model() {
    // Tied and not, and a head that has the prefix.
    for case in ["qwen2_moe_window", "mixtral", "gpt_oss", "granitemoe", "olmoe", "minimax_m2"] {
        let mut stored = tensors(case);
        for tensor in &mut stored {
            tensor.name = match tensor.name.strip_prefix("model.") {
                Some(flat) => flat.to_owned(),
                None => format!("model.{}", tensor.name),
            };
        }
        let model = loaded(case, json!({}), &stored).unwrap();
        assert!(warnings(&model).is_empty(), "{case}: {:?}", warnings(&model));
        same_logits(case, &model);
        // A shape is told of the name that the file has.
        let error = loaded(case, json!({"vocab_size": 7}), &stored).unwrap_err().to_string();
        assert!(error.contains("tensor `embed_tokens.weight` has shape"), "{error}");
    }
}

#[test]
fn names_with_the_prefix_of_the_base_model_twice() {
    for case in ["qwen2_moe_window", "mixtral", "gpt_oss", "granitemoe", "olmoe", "minimax_m2"] {
        let mut stored = tensors(case);
        for tensor in &mut stored {
            tensor.name.insert_str(0, "model.");
        }
        let model = loaded(case, json!({}), &stored).unwrap();
        assert!(warnings(&model).is_empty(), "{case}: {:?}", warnings(&model));
        same_logits(case, &model);
    }
}

#[test]
fn names_of_a_multimodal_model_with_another_prefix() {
    let flat = |name: &str| name.strip_prefix("model.").unwrap_or(name).to_owned();
    let twice = |name: &str| format!("model.{name}");
    for rename in [&flat as &dyn Fn(&str) -> String, &twice] {
        let mut stored = tensors(pictures::CASE);
        for tensor in &mut stored {
            tensor.name = rename(&tensor.name);
        }
        let model = loaded(pictures::CASE, json!({}), &stored).unwrap();
        assert!(warnings(&model).iter().all(|text| !text.contains("safetensors")));
        let golden = pictures::golden("text");
        let logits = model.logits(golden.ids("input_ids")).unwrap();
        assert_close("renamed", &logits, golden.values("logits"), 1e-4);
    }
}

#[test]
fn a_layers_experts_of_several_formats_are_converted_to_one() {
    for (case, part, dtype) in [
        ("qwen2_moe", "layers.0.mlp.experts.3.up_proj.weight", Dtype::F16),
        ("minimax_m2", "layers.1.block_sparse_moe.experts.0.w2.weight", Dtype::BF16),
        ("mixtral", "layers.2.block_sparse_moe.experts.1.w1.weight", Dtype::F16),
        ("qwen2_moe_window", "layers.1.mlp.experts.down_proj", Dtype::F32),
        ("gpt_oss", "layers.1.mlp.experts.gate_up_proj", Dtype::F32),
    ] {
        let mut stored = tensors(case);
        let one = stored.iter_mut().find(|tensor| tensor.name.ends_with(part)).unwrap();
        one.to(dtype);
        let model = loaded(case, json!({}), &stored).unwrap();
        let said = warnings(&model);
        let [said] = said.as_slice() else { panic!("{case}: {said:?}") };
        assert!(said.ends_with("are not, all are converted to f32"), "{case}: {said}");
        same_logits_in_f32(case, &model);
        assert!(model.load_report().converted_bytes > 0, "{case}");
    }
}

/// Against f64: formats of half precision compute otherwise than f32.
fn same_logits_in_f32(case: &str, model: &LanguageModel) {
    let golden = Golden::open(case);
    let logits = model.logits(golden.ids("input_ids")).unwrap();
    assert_close(case, &logits, golden.values("logits_f64"), 4.0 * DType::Bf16.epsilon());
}

#[test]
fn every_tensor_may_have_its_own_format() {
    for case in ["qwen2_moe", "mixtral"] {
        let mut stored = tensors(case);
        let formats = [Dtype::F32, Dtype::F16, Dtype::BF16];
        let others = stored.iter_mut().filter(|tensor| !tensor.name.contains("experts."));
        for (index, tensor) in others.enumerate() {
            tensor.to(formats[index % 3]);
        }
        let model = loaded(case, json!({}), &stored).unwrap();
        assert!(warnings(&model).is_empty(), "{case}: {:?}", warnings(&model));
        same_logits_in_f32(case, &model);
    }
}

#[test]
fn doubles_are_told_and_converted() {
    let mut stored = tensors("qwen2_moe");
    stored.iter_mut().for_each(|tensor| tensor.to(Dtype::F64));
    let count = stored.len();
    let model = loaded("qwen2_moe", json!({}), &stored).unwrap();
    let expected =
        format!("model.safetensors: {count} tensors are stored as F64 and are converted to F32");
    assert_eq!(warnings(&model), [expected]);
    same_logits("qwen2_moe", &model);
    assert_eq!(model.load_report().in_place_bytes, 0);
}

#[test]
fn what_loading_needs_is_known_before() {
    for case in CASES.into_iter().chain([pictures::CASE]) {
        for dtype in [None, Some(DType::F32), Some(DType::F16), Some(DType::Bf16)] {
            let files = ModelFiles::open(&data(case)).unwrap();
            let spec = families::describe(&files.config).unwrap();
            let fit = spec.fit(&files.checkpoint).unwrap();
            assert!(fit.missing.is_empty() && fit.superfluous.is_empty(), "{case}");
            let bytes = fit.weight_bytes(dtype);
            let model = AutoModel::from_files(files, LoadOptions::new().dtype(dtype)).unwrap();
            let report = model.load_report();
            let expected = (report.in_place_bytes as u64, report.converted_bytes as u64);
            assert_eq!((bytes.in_place, bytes.converted), expected, "{case} {dtype:?}");
        }
    }
}

#[test]
fn what_is_missing_and_superfluous_is_listed() {
    let files = ModelFiles::open(&data("mixtral")).unwrap();
    let mut spec = families::describe(&files.config).unwrap();
    spec.text.layers.push(spec.text.layers[0].clone());
    let fit = spec.clone().fit(&files.checkpoint).unwrap();
    assert!(fit.missing.iter().all(|name| name.starts_with("model.layers.3.")));
    assert!(!fit.missing.is_empty() && fit.superfluous.is_empty());
    spec.text.layers.truncate(2);
    let fit = spec.fit(&files.checkpoint).unwrap();
    assert!(fit.superfluous.iter().all(|name| name.starts_with("model.layers.2.")));
    assert!(fit.missing.is_empty() && !fit.superfluous.is_empty());
}

#[test]
fn keys_that_are_not_obeyed_are_told_by_loading() {
    let edits = json!({"attention_sink": 4, "partial_rotary_factor": 0.5});
    let model = loaded("qwen2_moe", edits, &tensors("qwen2_moe")).unwrap();
    assert_eq!(
        warnings(&model),
        [
            "config.json: key `partial_rotary_factor` is 0.5 and is not obeyed: models of this \
             family turn whole heads",
            "config.json: key `attention_sink` is not obeyed",
        ]
    );
}
