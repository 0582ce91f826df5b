//! `model.safetensors.index.json`: which shard holds which tensor.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use serde::Deserialize;

/// The name of the index in a model's folder.
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The shards by file name, each with the tensors it holds.
///
/// # Errors
/// What is wrong with the index, in words.
pub(super) fn read(json: &[u8]) -> Result<BTreeMap<String, Vec<String>>, String> {
    let index: Index =
        serde_json::from_slice(json).map_err(|error| format!("broken index: {error}"))?;
    if index.weight_map.is_empty() {
        return Err("`weight_map` names no tensor".to_owned());
    }
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, shard) in index.weight_map {
        if !stays_inside(&shard) {
            return Err(format!("shard `{shard}` is not a path inside the model's folder"));
        }
        shards.entry(shard).or_default().push(tensor);
    }
    Ok(shards)
}

/// Whether a path, joined to a folder, names something in that folder.
fn stays_inside(path: &str) -> bool {
    let mut components = Path::new(path).components().peekable();
    components.peek().is_some() && components.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_tensors_by_shard() {
        let json =
            br#"{"metadata": {"total_size": 12}, "weight_map": {"b": "2", "a": "1", "c": "2"}}"#;
        let shards = read(json).unwrap();
        assert_eq!(shards["1"], ["a"]);
        assert_eq!(shards["2"], ["b", "c"]);
    }

    #[test]
    fn only_paths_below_the_folder_stay_inside() {
        for inside in ["model-00001-of-00002.safetensors", "weights/a.safetensors"] {
            assert!(stays_inside(inside), "{inside}");
        }
        for outside in ["", "..", "../a", "a/../../b", "/etc/passwd", "./a"] {
            assert!(!stays_inside(outside), "{outside}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (json, problem) in [
            ("{", "broken index: EOF while parsing an object at line 1 column 1"),
            ("{}", "broken index: missing field `weight_map` at line 1 column 2"),
            (
                r#"{"weight_map": {"a": 1}}"#,
                "broken index: invalid type: integer `1`, expected a string at line 1 column 22",
            ),
            (r#"{"weight_map": {}}"#, "`weight_map` names no tensor"),
        ] {
            assert_eq!(read(json.as_bytes()).unwrap_err(), problem);
        }
    }
}
