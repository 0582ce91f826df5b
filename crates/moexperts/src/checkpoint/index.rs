//! `model.safetensors.index.json`: which shard holds which tensor.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use serde::Deserialize;

/// The name of the index in a model's folder.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// The name of an unsharded file in a model's folder.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The shards by file name, each with the tensors it holds.
///
/// # Errors
/// What is wrong with the index, in words.
pub(crate) fn read(json: &[u8]) -> Result<BTreeMap<String, Vec<String>>, String> {
    let index = crate::json::text(json)?;
    let index: Index = serde_json::from_str(index)
        .or_else(|error| {
            let value = crate::json::parse(index).ok();
            value.and_then(|value| Index::deserialize(value).ok()).ok_or(error)
        })
        .map_err(|error| format!("broken index: {error}"))?;
    if index.weight_map.is_empty() {
        return Err("`weight_map` names no tensor".to_owned());
    }
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, shard) in index.weight_map {
        if !is_inner_path(&shard) {
            return Err(format!("shard `{shard}` is not a path inside the model's folder"));
        }
        shards.entry(shard).or_default().push(tensor);
    }
    Ok(shards)
}

/// Whether a path, joined to a folder, names something in that folder, on every system.
///
/// Names come from strangers' files and servers. What only some systems take for a separator, a
/// drive or an end of the name (`\`, `:`, NUL) is refused on all of them.
pub(crate) fn is_inner_path(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', ':', '\0'])
        && path.split('/').all(|part| !part.is_empty() && part != ".")
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
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
    fn only_paths_below_the_folder_are_inner() {
        for inner in ["model-00001-of-00002.safetensors", "weights/a.safetensors", "a..b"] {
            assert!(is_inner_path(inner), "{inner}");
        }
        for outer in [
            "",
            "..",
            "../a",
            "a/..",
            "a/../../b",
            "/etc/passwd",
            "a//b",
            "a/",
            ".",
            "./a",
            "a/./b",
            "C:a",
            "a\\b",
            "a\0",
        ] {
            assert!(!is_inner_path(outer), "{outer}");
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
            (
                r#"{"weight_map": {"a": "../b"}}"#,
                "shard `../b` is not a path inside the model's folder",
            ),
        ] {
            assert_eq!(read(json.as_bytes()).unwrap_err(), problem);
        }
    }
}
