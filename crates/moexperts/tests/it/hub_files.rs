//! Which files of a repository `hub::fetch` brings.

use std::fs;

use moexperts::hub::{HubOptions, fetch};

use crate::{
    hub::{WEIGHTS, cache, options, silent},
    hub_server::{COMMIT, HubServer, REPO},
};

#[test]
fn fetches_the_files_of_a_multimodal_model() {
    let files = [
        "chat_template.json",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
        "processor_config.json",
    ];
    let own = files.map(|file| (file, file.as_bytes()));
    let server = HubServer::start(&[&own[..], &[("config.json", b"{}"), (WEIGHTS, b"w")]].concat());
    let cache = cache();
    let folder = fetch(REPO, &options(&server, &cache), silent()).unwrap();
    for file in files {
        assert_eq!(fs::read_to_string(folder.join(file)).unwrap(), file);
    }
}

#[test]
fn fetches_a_shard_in_a_folder() {
    let index = br#"{"weight_map": {"a": "weights/model.safetensors"}}"#;
    let server = HubServer::start(&[
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("weights/model.safetensors", b"inside"),
    ]);
    let cache = cache();
    let folder = fetch(REPO, &options(&server, &cache), silent()).unwrap();
    assert_eq!(fs::read(folder.join("weights/model.safetensors")).unwrap(), b"inside");
}

#[test]
fn what_a_repository_is_instead_of_a_model_is_told() {
    let adapter = br#"{"peft_type": "LORA", "base_model_name_or_path": "org/base"}"#;
    for (file, bytes, expected) in [
        ("adapter_config.json", &adapter[..], "`org/tiny-moe` is a LoRA adapter of `org/base`: "),
        ("model_index.json", b"{}", "`org/tiny-moe` is a pipeline of diffusers, not a language"),
        ("params.json", b"{}", "`org/tiny-moe` is a model as its publisher's own programs have it"),
    ] {
        let server = HubServer::start(&[(file, bytes)]);
        for revision in ["main", COMMIT] {
            let cache = cache();
            let options =
                HubOptions { revision: Some(revision.to_owned()), ..options(&server, &cache) };
            let error = fetch(REPO, &options, silent()).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }
}

#[test]
fn chat_templates_beside_the_default_are_fetched_once() {
    let files: [(&str, &[u8]); 5] = [
        ("config.json", b"{}"),
        (WEIGHTS, b"weights"),
        ("chat_template.jinja", b"default"),
        ("additional_chat_templates/tool_use.jinja", b"tools"),
        ("additional_chat_templates/README.md", b"no template"),
    ];
    let (server, first) = (HubServer::start(&files), cache());
    let folder = fetch(REPO, &options(&server, &first), silent()).unwrap();
    let templates = folder.join("additional_chat_templates");
    assert_eq!(fs::read_to_string(templates.join("tool_use.jinja")).unwrap(), "tools");
    assert_eq!(fs::read_dir(templates).unwrap().count(), 1);
    server.take_requests();
    fetch(REPO, &options(&server, &first), silent()).unwrap();
    // Where the branch stands, with a redirect, and the listing.
    assert_eq!(server.take_requests().len(), 3);

    let (server, cache) = (HubServer::start(&files[..3]), cache());
    fetch(REPO, &options(&server, &cache), silent()).unwrap();
    server.take_requests();
    let commit = HubOptions { revision: Some(COMMIT.to_owned()), ..options(&server, &cache) };
    fetch(REPO, &commit, silent()).unwrap();
    assert!(server.take_requests().is_empty(), "what is not there is not requested again");
}

#[test]
fn the_format_of_a_tokenizer_that_is_not_read_is_fetched_to_be_named() {
    let server = HubServer::start(&[
        ("config.json", b"{}"),
        ("tokenizer.model", b"sentencepiece"),
        (WEIGHTS, b"weights"),
    ]);
    let cache = cache();
    let folder = fetch(REPO, &options(&server, &cache), silent()).unwrap();
    assert!(folder.join("tokenizer.model").exists());
}
