//! Folders that hold no weights which can be read: what they hold instead.

use std::{fs, io, path::Path};

use serde_json::Value;

use super::index::{INDEX_FILE, SINGLE_FILE};
use crate::error::{Error, Result};

/// Formats of weights that are common in model folders and not read.
const OTHER_FORMATS: [&str; 5] = ["bin", "pt", "pth", "gguf", "msgpack"];

/// The files of a LoRA adapter, as peft names them.
const ADAPTER: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// Refuses a path that is not a folder, before a file below it is blamed.
pub(crate) fn require_folder(path: &Path) -> Result<()> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(());
    }
    Err(failed(io::Error::new(io::ErrorKind::NotADirectory, "not a directory")))
}

/// What a path is that is no folder of a model, if that can be told.
pub(crate) fn told(path: &Path) -> Option<String> {
    let has = |name: &str| path.join(name).exists();
    if path.is_file() {
        let gguf = path.extension().is_some_and(|extension| extension == "gguf");
        return Some(match gguf {
            true => {
                "a GGUF file, which is not read: give the folder or id of the safetensors model"
                    .to_owned()
            }
            false => "a file, expected the folder of a model".to_owned(),
        });
    }
    if !path.is_dir() {
        return None;
    }
    if let Some(link) = broken_link(&path.join("config.json")) {
        return Some(format!("a folder whose `config.json` {link}"));
    }
    if has("config.json") {
        return None;
    }
    if ADAPTER.into_iter().any(has) {
        return Some(adapter(path));
    }
    if has("model_index.json") {
        return Some("a pipeline of diffusers, not a language model".to_owned());
    }
    if has("snapshots") {
        return Some(
            "a repository in the hub's cache: give its id, or the folder of a commit in `snapshots`"
                .to_owned(),
        );
    }
    if has("params.json") {
        return Some(
            "a model as its publisher's own programs have it (`params.json`): give one in the \
             format of transformers, with `config.json`"
                .to_owned(),
        );
    }
    let other = file_of_other_format(path)?;
    Some(format!(
        "a folder without `config.json`, with `{other}`: give the model in the format of \
         transformers, with `config.json` and safetensors"
    ))
}

/// A LoRA adapter, with the model that it belongs to where it says so.
fn adapter(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join(ADAPTER[0])).unwrap_or_default();
    let config: Value = serde_json::from_str(&text).unwrap_or_default();
    let of = match config["base_model_name_or_path"].as_str() {
        Some(base) if !base.is_empty() => format!(" of `{base}`"),
        _ => String::new(),
    };
    format!(
        "a LoRA adapter{of}: merge it into that model first, with peft's `merge_and_unload`, and \
         give the folder of the merged model"
    )
}

/// What is wrong with a link to a file that is gone, as those of the hub's cache can be.
pub(super) fn broken_link(path: &Path) -> Option<String> {
    let link = fs::read_link(path).ok().filter(|_| !path.exists())?;
    Some(format!(
        "is a link to `{}`, which is gone; delete the link, or the model from the hub's cache, and \
         download it again",
        link.display()
    ))
}

/// Why there are no weights in a folder.
pub(super) fn no_weights(folder: &Path) -> String {
    for name in [SINGLE_FILE, INDEX_FILE] {
        if let Some(link) = broken_link(&folder.join(name)) {
            return format!("`{name}` {link}");
        }
    }
    let problem = format!("no weights, neither `{SINGLE_FILE}` nor `{INDEX_FILE}` is there");
    if folder.join(ADAPTER[1]).exists() {
        return format!("{problem}; it is {}", adapter(folder));
    }
    let files = files(folder);
    if let Some(name) = files.iter().find(|name| name.ends_with(".safetensors")) {
        let why = match name.starts_with("consolidated") {
            true => "names tensors as its publisher does, not as transformers",
            false if name.contains("-of-") => "is a shard without its index",
            false => "is under another name: a variant is renamed before it is loaded",
        };
        return format!("{problem}; `{name}` {why}");
    }
    match file_of_other_format(folder) {
        Some(name) => {
            format!("{problem}; `{name}` is of another format, only safetensors are read")
        }
        None => problem,
    }
}

fn file_of_other_format(folder: &Path) -> Option<String> {
    let other = |name: &String| {
        let extension = Path::new(name).extension();
        extension.is_some_and(|extension| OTHER_FORMATS.iter().any(|&other| extension == other))
    };
    files(folder).into_iter().find(other)
}

/// The names in a folder, sorted.
fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}
