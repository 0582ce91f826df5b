//! Checkpoints as transformers 5 saves them, made of the published ones: other names, experts fused.

use std::{collections::BTreeMap, fs, path::Path};

use moexperts::{AutoModelForCausalLm, DType, LanguageModel, LoadOptions};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::common::{Golden, data, load};

/// Name, element type, shape and bytes.
type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);

fn tensors(case: &str) -> Vec<Tensor> {
    let bytes = fs::read(data(case).join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (String, TensorView<'_>)| {
        (name, view.dtype(), view.shape().to_vec(), view.data().to_vec())
    };
    file.tensors().into_iter().map(tensor).collect()
}

/// A folder with the config of a case and other tensors, loaded.
fn load_from(folder: &Path, case: &str, tensors: &[Tensor]) -> LanguageModel {
    fs::copy(data(case).join("config.json"), folder.join("config.json")).unwrap();
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    let image = safetensors::serialize(views, None).unwrap();
    fs::write(folder.join("model.safetensors"), image).unwrap();
    let options = LoadOptions::new().dtype(DType::F32);
    AutoModelForCausalLm::from_pretrained(folder.to_str().unwrap(), options).unwrap()
}

/// The experts of each layer, stored one by one as w1, w3 and w2, as `gate_up_proj` and `down_proj`.
fn fused(stored: Vec<Tensor>) -> Vec<Tensor> {
    let mut all = Vec::new();
    // By projection, expert and half: a stack follows the numbers of the experts.
    let mut parts: BTreeMap<(String, usize, usize), Tensor> = BTreeMap::new();
    for tensor in stored {
        let Some((module, rest)) = tensor.0.split_once(".experts.") else {
            all.push(tensor);
            continue;
        };
        let (expert, weight) = rest.split_once('.').unwrap();
        let (projection, half) = match weight {
            "w1.weight" => ("gate_up_proj", 0),
            "w3.weight" => ("gate_up_proj", 1),
            _ => ("down_proj", 0),
        };
        let stack = format!("{module}.experts.{projection}");
        parts.insert((stack, expert.parse().unwrap(), half), tensor);
    }
    let mut stacks: BTreeMap<String, Tensor> = BTreeMap::new();
    for ((stack, _, half), (_, dtype, shape, bytes)) in parts {
        let empty = || (stack.clone(), dtype, vec![0, 0, shape[1]], Vec::new());
        let (_, _, sizes, all_bytes) = stacks.entry(stack.clone()).or_insert_with(empty);
        if half == 0 {
            (sizes[0], sizes[1]) = (sizes[0] + 1, 0);
        }
        sizes[1] += shape[0];
        all_bytes.extend(bytes);
    }
    all.extend(stacks.into_values());
    all
}

#[test]
fn other_names_and_fused_experts_give_the_same_logits() {
    let renamings: [(&str, &[(&str, &str)]); 3] = [
        (
            "granitemoe",
            &[
                ("input_linear.weight", "experts.gate_up_proj"),
                ("output_linear.weight", "experts.down_proj"),
                ("router.layer.weight", "router.weight"),
            ],
        ),
        ("minimax_m2", &[("block_sparse_moe", "mlp")]),
        ("mixtral", &[("block_sparse_moe", "mlp")]),
    ];
    for (case, renaming) in renamings {
        let expected = load(case, LoadOptions::new().dtype(DType::F32));
        let ids = Golden::open(case).ids("input_ids");
        let mut other = fused(tensors(case));
        for (name, ..) in &mut other {
            for (from, to) in renaming {
                *name = name.replace(from, to);
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let model = load_from(folder.path(), case, &other);
        let [expected, got] = [expected, model].map(|model| model.logits(&ids).unwrap());
        assert_eq!(got, expected, "{case}");
    }
}

#[test]
fn impossible_values_of_a_family_are_refused() {
    for (case, key, value, expected) in [
        ("granitemoe", "logits_scaling", "0", "is 0, expected a number other than 0"),
        ("minimax_m2", "rotary_dim", "17", "expected more than 0 and at most 1"),
        ("minimax_m2", "head_dim", "0", "key `head_dim` is 0"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(data(case).join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config[key] = value.parse::<u64>().unwrap().into();
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let weights = folder.path().join("model.safetensors");
        fs::copy(data(case).join("model.safetensors"), weights).unwrap();
        let path = folder.path().to_str().unwrap();
        let error = AutoModelForCausalLm::from_pretrained(path, LoadOptions::new()).unwrap_err();
        assert!(error.to_string().contains(expected), "{case} {key}: {error}");
    }
}
