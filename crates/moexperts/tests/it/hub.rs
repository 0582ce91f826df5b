//! `hub::fetch` against a small hub on this machine; nothing here reaches the network.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::error::Error as _;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::{env, fs};

use moexperts::{
    Amount, Progress,
    hub::{HubError, HubOptions, fetch},
};
use tempfile::TempDir;

use crate::common::data;
use crate::hub_server::{Behaviour, COMMIT, HubServer, REPO, Request, etag};

pub(crate) const WEIGHTS: &str = "model.safetensors";
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
const INDEX: &[u8] = br#"{"metadata": {}, "weight_map": {
    "a": "model-00002-of-00002.safetensors",
    "b": "model-00001-of-00002.safetensors",
    "c": "model-00002-of-00002.safetensors"}}"#;

fn weights() -> Vec<u8> {
    (0..1_000_000_u32).map(|i| (i % 251) as u8).collect()
}

fn single_file_hub() -> HubServer {
    HubServer::start(&[
        ("config.json", br#"{"model_type": "tiny"}"#),
        ("tokenizer.json", b"{}"),
        (WEIGHTS, &weights()),
    ])
}

fn sharded_hub(index: &[u8]) -> HubServer {
    HubServer::start(&[
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index),
        (SHARDS[0], &weights()),
        (SHARDS[1], b"second shard"),
    ])
}

/// Options that leave nothing to the environment; the empty token sends none.
pub(crate) fn options(server: &HubServer, cache: &TempDir) -> HubOptions {
    HubOptions {
        revision: Some("main".to_owned()),
        token: Some(String::new()),
        cache_dir: Some(cache.path().to_owned()),
        endpoint: Some(server.endpoint()),
        offline: false,
    }
}

pub(crate) fn silent() -> Arc<dyn Progress> {
    Arc::new(())
}

pub(crate) fn cache() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn bodies(requests: &[Request]) -> Vec<&Request> {
    let of_storage = |r: &&Request| r.method == "GET" && r.path.starts_with("/storage/");
    requests.iter().filter(of_storage).collect()
}

fn cause(error: &HubError) -> String {
    error.source().unwrap().to_string()
}

#[test]
fn fetches_a_single_file_model_into_the_layout_of_the_python_cache() {
    let (server, cache) = (single_file_hub(), cache());
    let folder = fetch(REPO, &options(&server, &cache), silent()).unwrap();

    let repository = cache.path().join("models--org--tiny-moe");
    assert_eq!(folder, repository.join("snapshots").join(COMMIT));
    assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), weights());
    assert_eq!(fs::read(folder.join("tokenizer.json")).unwrap(), b"{}");
    assert!(!folder.join("chat_template.jinja").exists());
    assert_eq!(fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(fs::read(repository.join("blobs").join(etag(WEIGHTS))).unwrap(), weights());
    assert!(repository.join(".no_exist").join(COMMIT).join("chat_template.jinja").exists());
    assert_eq!(fs::read_dir(repository.join("blobs")).unwrap().count(), 3);
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(folder.join(WEIGHTS)).unwrap(),
        std::path::Path::new("../../blobs").join(etag(WEIGHTS))
    );
}

#[test]
fn fetches_every_shard_the_index_names() {
    let (server, cache) = (sharded_hub(INDEX), cache());
    let folder = fetch(REPO, &options(&server, &cache), silent()).unwrap();
    assert_eq!(fs::read(folder.join(SHARDS[0])).unwrap(), weights());
    assert_eq!(fs::read(folder.join(SHARDS[1])).unwrap(), b"second shard");
    assert_eq!(bodies(&server.take_requests()).len(), 2);
    assert!(!folder.join(WEIGHTS).exists());
}

/// The certificates that a program trusts come from its environment, so that this test runs itself as
/// another program: one that fetches from the address in the variable.
#[test]
fn the_certificates_that_a_variable_names_are_trusted() {
    const ENDPOINT: &str = "MOEXPERTS_TEST_ENDPOINT";
    let cache = cache();
    if let Ok(endpoint) = env::var(ENDPOINT) {
        let token = Some(String::new());
        let cache_dir = Some(cache.path().to_owned());
        let endpoint = Some(endpoint);
        let options = HubOptions { token, cache_dir, endpoint, ..HubOptions::default() };
        let fetched = fetch(REPO, &options, silent());
        println!("{}", fetched.map_or_else(|error| cause(&error), |_| "fetched".to_owned()));
        return;
    }
    let server = HubServer::start_with_tls(&[("config.json", b"{}"), (WEIGHTS, b"weights")]);
    let variables = ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];
    let run = |variable: Option<&str>| {
        let mut program = Command::new(env::current_exe().unwrap());
        let test = "hub::the_certificates_that_a_variable_names_are_trusted";
        program.args(["--exact", test, "--nocapture"]).env(ENDPOINT, server.endpoint());
        program.env_remove("HF_HUB_OFFLINE");
        for name in variables {
            program.env_remove(name);
        }
        if let Some(variable) = variable {
            program.env(variable, data("hub").join("authority.pem"));
        }
        String::from_utf8(program.output().unwrap().stdout).unwrap()
    };
    let stranger = run(None);
    assert!(stranger.contains("invalid peer certificate: UnknownIssuer"), "{stranger}");
    for variable in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
        assert!(run(Some(variable)).contains("\nfetched\n"), "{variable}: {}", run(Some(variable)));
    }
}

#[test]
fn a_second_fetch_asks_once_where_the_branch_stands() {
    let (server, cache) = (sharded_hub(INDEX), cache());
    let options = options(&server, &cache);
    let first = fetch(REPO, &options, silent()).unwrap();
    server.take_requests();
    assert_eq!(fetch(REPO, &options, silent()).unwrap(), first);
    let seen: Vec<_> = server.take_requests().into_iter().map(|r| (r.method, r.path)).collect();
    let head = |path: &str| ("HEAD".to_owned(), path.to_owned());
    assert_eq!(
        seen,
        [head("/org/tiny-moe/resolve/main/config.json"), head("/api/resolve-cache/config.json")]
    );
}

#[test]
fn a_commit_in_the_cache_needs_no_request() {
    let (server, cache) = (single_file_hub(), cache());
    let options = HubOptions { revision: Some(COMMIT.to_owned()), ..options(&server, &cache) };
    let first = fetch(REPO, &options, silent()).unwrap();
    server.take_requests();
    assert_eq!(fetch(REPO, &options, silent()).unwrap(), first);
    assert!(server.take_requests().is_empty());
}

#[test]
fn a_blob_of_another_commit_is_not_downloaded_again() {
    let (server, cache) = (single_file_hub(), cache());
    let options = options(&server, &cache);
    let folder = fetch(REPO, &options, silent()).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    server.take_requests();
    fetch(REPO, &options, silent()).unwrap();
    assert_eq!(bodies(&server.take_requests()).len(), 0);
    assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), weights());
}

#[test]
fn offline_mode_uses_the_cache_without_requests() {
    let (server, cache) = (sharded_hub(INDEX), cache());
    let online = options(&server, &cache);
    let first = fetch(REPO, &online, silent()).unwrap();
    server.take_requests();
    let offline = HubOptions { offline: true, ..online };
    assert_eq!(fetch(REPO, &offline, silent()).unwrap(), first);
    assert!(server.take_requests().is_empty());
}

#[test]
fn offline_mode_names_the_revision_that_is_not_in_the_cache() {
    let (server, cache) = (single_file_hub(), cache());
    let error = fetch(REPO, &HubOptions { offline: true, ..options(&server, &cache) }, silent())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "offline mode is on, and the cache `{}` has no revision `main` of repository \
             `org/tiny-moe`",
            cache.path().display()
        )
    );
    assert_eq!(
        error.hint().unwrap(),
        "run once with a network and without HF_HUB_OFFLINE, or set HF_HUB_CACHE to a cache that \
         has the model"
    );
    assert!(server.take_requests().is_empty());
}

#[test]
fn offline_mode_names_the_shard_that_is_not_in_the_cache() {
    let (server, cache) = (sharded_hub(INDEX), cache());
    let online = options(&server, &cache);
    let folder = fetch(REPO, &online, silent()).unwrap();
    fs::remove_file(folder.join(SHARDS[1])).unwrap();
    let error = fetch(REPO, &HubOptions { offline: true, ..online }, silent()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "offline mode is on, and the cache `{}` has no `model-00002-of-00002.safetensors` of \
             repository `org/tiny-moe`",
            cache.path().display()
        )
    );
}

#[test]
fn a_broken_download_continues_where_it_stopped() {
    let (server, cache) = (sharded_hub(INDEX), cache());
    let options = options(&server, &cache);
    server.behave(Behaviour {
        break_off: Some((SHARDS[0].to_owned(), 600_000)),
        ..Behaviour::default()
    });
    let error = fetch(REPO, &options, silent()).unwrap_err();
    assert_eq!(error.to_string(), "cannot download `model-00001-of-00002.safetensors`");
    assert_eq!(cause(&error), "Peer disconnected");
    assert_eq!(
        error.hint().unwrap(),
        "run again: the download continues where it stopped; if it never starts, check the \
         network and HF_ENDPOINT; a model already in the cache needs no network with \
         HF_HUB_OFFLINE=1"
    );
    let blobs = cache.path().join("models--org--tiny-moe/blobs");
    let partial = blobs.join(format!("{}.moexperts.incomplete", etag(SHARDS[0])));
    assert_eq!(fs::metadata(&partial).unwrap().len(), 600_000);
    assert!(!cache.path().join("models--org--tiny-moe/refs").exists());

    server.take_requests();
    let folder = fetch(REPO, &options, silent()).unwrap();
    let requests = server.take_requests();
    let ranges: Vec<_> = bodies(&requests).iter().map(|r| r.range.as_deref()).collect();
    assert_eq!(ranges, [Some("bytes=600000-"), None]);
    assert_eq!(fs::read(folder.join(SHARDS[0])).unwrap(), weights());
    assert!(!partial.exists());
}

#[test]
fn a_server_that_ignores_ranges_starts_the_file_over() {
    let (server, cache) = (single_file_hub(), cache());
    let options = options(&server, &cache);
    let break_off = Some((WEIGHTS.to_owned(), 600_000));
    server.behave(Behaviour { break_off, ignores_ranges: true, ..Behaviour::default() });
    fetch(REPO, &options, silent()).unwrap_err();
    let folder = fetch(REPO, &options, silent()).unwrap();
    assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), weights());
}

#[test]
fn a_whole_part_is_taken_without_a_request_for_bytes() {
    let (server, cache) = (single_file_hub(), cache());
    let blobs = cache.path().join("models--org--tiny-moe/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let partial = blobs.join(format!("{}.moexperts.incomplete", etag(WEIGHTS)));
    fs::write(partial, weights()).unwrap();
    let folder = fetch(REPO, &options(&server, &cache), silent()).unwrap();
    assert_eq!(bodies(&server.take_requests()).len(), 0);
    assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), weights());
}

#[test]
fn refuses_a_file_shorter_or_longer_than_announced() {
    for (announced, problem) in [
        (1_000_001, "the server sent 1000000 of 1000001 bytes"),
        (999_999, "the server sent more than 999999 bytes"),
    ] {
        let (server, cache) = (single_file_hub(), cache());
        server.behave(Behaviour { announced_bytes: Some(announced), ..Behaviour::default() });
        let error = fetch(REPO, &options(&server, &cache), silent()).unwrap_err();
        assert_eq!(error.to_string(), "cannot download `model.safetensors`");
        assert_eq!(cause(&error), problem);
    }
}

#[test]
fn an_unknown_repository_is_not_found_with_and_without_a_token() {
    let (server, cache) = (single_file_hub(), cache());
    for token in ["", "hf_secret"] {
        let options = HubOptions { token: Some(token.to_owned()), ..options(&server, &cache) };
        let error = fetch("org/tiny-moo", &options, silent()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "repository `org/tiny-moo` at revision `main` was not found at {}",
                server.endpoint()
            )
        );
        assert_eq!(
            error.hint().unwrap(),
            "check the spelling of the id and the revision; a private or gated repository also \
             looks like this without a token in HF_TOKEN"
        );
    }
}

#[test]
#[cfg(unix)]
fn a_pointer_to_a_removed_blob_is_mended() {
    let (server, cache) = (single_file_hub(), cache());
    let options = options(&server, &cache);
    let folder = fetch(REPO, &options, silent()).unwrap();
    fs::remove_file(cache.path().join("models--org--tiny-moe/blobs").join(etag(WEIGHTS))).unwrap();
    fetch(REPO, &options, silent()).unwrap();
    assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), weights());
}

#[test]
fn an_unknown_revision_is_not_found() {
    let (server, cache) = (single_file_hub(), cache());
    for revision in ["v9", "ffffffffffffffffffffffffffffffffffffffff"] {
        let options =
            HubOptions { revision: Some(revision.to_owned()), ..options(&server, &cache) };
        let error = fetch(REPO, &options, silent()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "repository `org/tiny-moe` at revision `{revision}` was not found at {}",
                server.endpoint()
            )
        );
    }
}

#[test]
fn the_revision_fills_one_segment_of_the_url_and_a_path_of_refs() {
    let (server, cache) = (single_file_hub(), cache());
    let options = HubOptions { revision: Some("refs/pr/1".to_owned()), ..options(&server, &cache) };
    fetch(REPO, &options, silent()).unwrap();
    assert_eq!(server.take_requests()[0].path, "/org/tiny-moe/resolve/refs%2Fpr%2F1/config.json");
    let written = cache.path().join("models--org--tiny-moe/refs/refs/pr/1");
    assert_eq!(fs::read_to_string(written).unwrap(), COMMIT);
}

#[test]
fn a_repository_without_a_config_is_no_model() {
    let (server, cache) = (HubServer::start(&[(WEIGHTS, b"x")]), cache());
    for revision in ["main", COMMIT] {
        let options =
            HubOptions { revision: Some(revision.to_owned()), ..options(&server, &cache) };
        let error = fetch(REPO, &options, silent()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("repository `org/tiny-moe` at revision `{revision}` has no `config.json`")
        );
    }
}

#[test]
fn a_repository_without_safetensors_is_no_model() {
    let (server, cache) = (HubServer::start(&[("config.json", b"{}")]), cache());
    let error = fetch(REPO, &options(&server, &cache), silent()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "repository `org/tiny-moe` at revision `main` has no `model.safetensors`"
    );
    assert_eq!(
        error.hint().unwrap(),
        "moexperts loads transformers-style repositories: config.json and safetensors weights"
    );
}

#[test]
fn the_token_goes_to_the_hub_and_not_to_the_storage() {
    let (server, cache) = (single_file_hub(), cache());
    server.behave(Behaviour { token: Some("hf_secret".to_owned()), ..Behaviour::default() });
    let options = HubOptions { token: Some("hf_secret".to_owned()), ..options(&server, &cache) };
    fetch(REPO, &options, silent()).unwrap();
    for request in server.take_requests() {
        let expected = (!request.path.starts_with("/storage/")).then_some("Bearer hf_secret");
        assert_eq!(request.authorization.as_deref(), expected, "{request:?}");
    }
}

#[test]
fn a_refusal_says_whether_a_token_was_sent() {
    let (server, cache) = (single_file_hub(), cache());
    server.behave(Behaviour { token: Some("hf_secret".to_owned()), ..Behaviour::default() });
    let endpoint = server.endpoint();
    let mut options = options(&server, &cache);
    let error = fetch(REPO, &options, silent()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{endpoint} refused access to repository `org/tiny-moe`: HTTP 401, without a token"
        )
    );
    assert_eq!(
        error.hint().unwrap(),
        format!(
            "check the spelling of the id; for a private or gated repository accept its terms at \
             {endpoint}/org/tiny-moe and set HF_TOKEN"
        )
    );
    options.token = Some("hf_wrong".to_owned());
    let error = fetch(REPO, &options, silent()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{endpoint} refused access to repository `org/tiny-moe`: HTTP 401, with a token")
    );
    assert_eq!(
        error.hint().unwrap(),
        format!(
            "check that the token is valid and may read the repository, and that its terms are \
             accepted at {endpoint}/org/tiny-moe"
        )
    );
}

#[test]
fn a_broken_server_is_a_transfer_error() {
    let (server, cache) = (single_file_hub(), cache());
    server.behave(Behaviour { status: Some("503 Service Unavailable"), ..Behaviour::default() });
    let error = fetch(REPO, &options(&server, &cache), silent()).unwrap_err();
    assert_eq!(error.to_string(), "cannot download `config.json`");
    assert_eq!(cause(&error), "the server answered HTTP 503 Service Unavailable");
}

#[test]
fn refuses_ids_and_revisions_that_could_leave_the_cache_without_a_request() {
    let (server, cache) = (single_file_hub(), cache());
    for id in ["", "/", "org/", "../x", "org/..", "a/b/c", "org/a b", "org/a--b", "-org/a", "a\\b"]
    {
        let error = fetch(id, &options(&server, &cache), silent()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "invalid repository id `{id}`, expected `name` or `organisation/name` of letters, \
                 digits, `-`, `_` and `.`"
            )
        );
    }
    for revision in ["", "../main", "/main", "a b", "a//b"] {
        let options =
            HubOptions { revision: Some(revision.to_owned()), ..options(&server, &cache) };
        let error = fetch(REPO, &options, silent()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("invalid revision `{revision}`, expected a branch, a tag or a commit hash")
        );
    }
    assert!(server.take_requests().is_empty());
}

#[test]
fn refuses_an_index_that_names_files_outside_the_repository() {
    for shard in ["../../x.safetensors", "/etc/x.safetensors", "a/../x.safetensors"] {
        let index = format!(r#"{{"weight_map": {{"a": "{shard}"}}}}"#);
        let (server, cache) = (sharded_hub(index.as_bytes()), cache());
        let error = fetch(REPO, &options(&server, &cache), silent()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "model.safetensors.index.json: shard `{shard}` is not a path inside the model's folder"
            )
        );
    }
}

#[test]
fn refuses_an_index_without_a_weight_map() {
    let (server, cache) = (sharded_hub(b"{}"), cache());
    let error = fetch(REPO, &options(&server, &cache), silent()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "model.safetensors.index.json: broken index: missing field `weight_map` at line 1 column 2"
    );
}

#[test]
fn a_cache_that_cannot_be_written_names_the_folder() {
    let (server, cache) = (single_file_hub(), cache());
    let file = cache.path().join("file");
    fs::write(&file, "").unwrap();
    let options = HubOptions { cache_dir: Some(file.clone()), ..options(&server, &cache) };
    let error = fetch(REPO, &options, silent()).unwrap_err();
    let folder = file.join("models--org--tiny-moe/blobs");
    assert_eq!(error.to_string(), format!("cannot use `{}` in the cache", folder.display()));
}

/// Everything that keeps a hub from describing a file: status, code of the hub, whether the cache is
/// a way out, as huggingface_hub has it.
const REFUSALS: [(&str, Option<&str>, bool); 11] = [
    ("200 OK", None, true), // a page of a proxy: no header of a hub
    ("401 Unauthorized", None, true),
    ("401 Unauthorized", Some("RepoNotFound"), true),
    ("403 Forbidden", Some("GatedRepo"), true),
    ("404 Not Found", None, true),
    ("404 Not Found", Some("RepoNotFound"), true),
    ("429 Too Many Requests", None, true),
    ("500 Internal Server Error", None, true),
    ("503 Service Unavailable", None, true),
    ("404 Not Found", Some("RevisionNotFound"), false),
    ("404 Not Found", Some("EntryNotFound"), false),
];

#[test]
fn a_hub_that_does_not_answer_leaves_the_cache() {
    let (server, cache) = (sharded_hub(INDEX), cache());
    let options = options(&server, &cache);
    let first = fetch(REPO, &options, silent()).unwrap();
    for (status, error_code, from_cache) in REFUSALS {
        server.behave(Behaviour { status: Some(status), error_code, ..Behaviour::default() });
        let folder = fetch(REPO, &options, silent());
        assert_eq!(folder.is_ok(), from_cache, "{status} {error_code:?}");
        if from_cache {
            assert_eq!(folder.unwrap(), first, "{status} {error_code:?}");
        }
    }
    drop(server);
    assert_eq!(fetch(REPO, &options, silent()).unwrap(), first, "connection refused");
    let endpoint = Some("http://no-such-host.invalid".to_owned());
    let options = HubOptions { endpoint, ..options };
    assert_eq!(fetch(REPO, &options, silent()).unwrap(), first, "no such host");
}

#[test]
fn a_hub_that_does_not_answer_is_an_error_without_a_cache() {
    let (server, cache) = (sharded_hub(INDEX), cache());
    for revision in ["main", COMMIT] {
        for (status, error_code, _) in REFUSALS {
            server.behave(Behaviour { status: Some(status), error_code, ..Behaviour::default() });
            let options =
                HubOptions { revision: Some(revision.to_owned()), ..options(&server, &cache) };
            let error = fetch(REPO, &options, silent()).unwrap_err();
            assert!(!matches!(error, HubError::Incomplete { .. }), "{error}");
            assert!(error.hint().is_some(), "{error}");
        }
    }
}

#[test]
fn a_part_of_a_model_in_the_cache_is_an_error_that_names_the_rest() {
    let (server, cache) = (sharded_hub(INDEX), cache());
    let options = options(&server, &cache);
    let folder = fetch(REPO, &options, silent()).unwrap();
    SHARDS.iter().for_each(|shard| fs::remove_file(folder.join(shard)).unwrap());
    server.behave(Behaviour { status: Some("503 Service Unavailable"), ..Behaviour::default() });
    let error = fetch(REPO, &options, silent()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the hub cannot be used, and the cache `{}` has no \
             `model-00001-of-00002.safetensors`, `model-00002-of-00002.safetensors` of repository \
             `org/tiny-moe`",
            cache.path().display()
        )
    );
    assert_eq!(cause(&error), "cannot download `config.json`");
    assert!(error.hint().unwrap().contains("HF_ENDPOINT"));
}

#[test]
fn a_commit_in_the_cache_needs_no_answer_about_files_it_may_lack() {
    let (server, cache) = (single_file_hub(), cache());
    let options = HubOptions { revision: Some(COMMIT.to_owned()), ..options(&server, &cache) };
    let first = fetch(REPO, &options, silent()).unwrap();
    fs::remove_dir_all(cache.path().join("models--org--tiny-moe/.no_exist")).unwrap();
    server.behave(Behaviour {
        status: Some("503 Service Unavailable"),
        only: Some("/chat_template.jinja"),
        ..Behaviour::default()
    });
    assert_eq!(fetch(REPO, &options, silent()).unwrap(), first);
}

/// Files stand where folders should be, which keeps the superuser out as well.
#[test]
fn a_whole_model_in_a_cache_that_may_not_be_written_is_loaded() {
    let (server, cache) = (single_file_hub(), cache());
    let options = options(&server, &cache);
    let first = fetch(REPO, &options, silent()).unwrap();
    let repository = cache.path().join("models--org--tiny-moe");
    for folder in
        [repository.join("refs"), repository.join(".no_exist"), cache.path().join(".locks")]
    {
        fs::remove_dir_all(&folder).unwrap();
        fs::write(&folder, "").unwrap();
    }
    server.take_requests();
    assert_eq!(fetch(REPO, &options, silent()).unwrap(), first);
    assert!(bodies(&server.take_requests()).is_empty());
}

#[test]
fn a_download_needs_no_lock() {
    let (server, cache) = (single_file_hub(), cache());
    fs::write(cache.path().join(".locks"), "").unwrap();
    let options = options(&server, &cache);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let folder = fetch(REPO, &options, silent()).unwrap();
                assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), weights());
            });
        }
    });
    let blobs = cache.path().join("models--org--tiny-moe/blobs");
    assert_eq!(fs::read_dir(blobs).unwrap().count(), 3);
}

#[test]
fn fetches_at_the_same_time_download_each_file_once() {
    let (server, cache) = (sharded_hub(INDEX), cache());
    let options = options(&server, &cache);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let folder = fetch(REPO, &options, silent()).unwrap();
                assert_eq!(fs::read(folder.join(SHARDS[0])).unwrap(), weights());
            });
        }
    });
    assert_eq!(bodies(&server.take_requests()).len(), 2);
}

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Progress for Recorder {
    fn start(&self, file: &str, amount: Amount) {
        let Amount::Bytes(bytes) = amount else { panic!("{amount:?}") };
        self.0.lock().unwrap().push(format!("{file} has {bytes}"));
    }
    fn advance(&self, file: &str, bytes: u64) {
        let mut events = self.0.lock().unwrap();
        let last = events.last_mut().unwrap();
        match last.strip_prefix(&format!("{file} +")).map(|sum| sum.parse::<u64>().unwrap()) {
            Some(sum) => *last = format!("{file} +{}", sum + bytes),
            None => events.push(format!("{file} +{bytes}")),
        }
    }
    fn finish(&self, file: &str) {
        self.0.lock().unwrap().push(format!("{file} finished"));
    }
}

#[test]
fn progress_counts_every_byte_of_a_continued_download() {
    let server = HubServer::start(&[("config.json", b"{}"), (WEIGHTS, &weights())]);
    let (cache, recorder) = (cache(), Arc::new(Recorder::default()));
    let break_off = Some((WEIGHTS.to_owned(), 600_000));
    server.behave(Behaviour { break_off, ..Behaviour::default() });
    fetch(REPO, &options(&server, &cache), recorder.clone()).unwrap_err();
    let events = std::mem::take(&mut *recorder.0.lock().unwrap());
    assert_eq!(
        events,
        [
            "config.json has 2",
            "config.json +2",
            "config.json finished",
            "model.safetensors has 1000000",
            "model.safetensors +600000",
        ]
    );
    fetch(REPO, &options(&server, &cache), recorder.clone()).unwrap();
    let events = std::mem::take(&mut *recorder.0.lock().unwrap());
    assert_eq!(
        events,
        [
            "model.safetensors has 1000000",
            "model.safetensors +1000000",
            "model.safetensors finished"
        ]
    );
}

#[test]
fn debug_hides_the_token() {
    let options = HubOptions { token: Some("hf_secret".to_owned()), ..HubOptions::default() };
    assert_eq!(
        format!("{options:?}"),
        "HubOptions { revision: None, token: Some(\"<hidden>\"), cache_dir: None, endpoint: None, \
         offline: false }"
    );
}

#[test]
fn a_model_is_loaded_from_the_hub_by_its_id() {
    let folder = crate::common::data("qwen3_moe");
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        files.push((name, fs::read(&path).unwrap()));
    }
    let served: Vec<(&str, &[u8])> =
        files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let (server, cache) = (HubServer::start(&served), cache());
    let load = |offline| {
        let options = HubOptions { offline, ..options(&server, &cache) };
        let options = moexperts::LoadOptions::new().hub(options);
        moexperts::AutoModelForCausalLm::from_pretrained(REPO, options).unwrap()
    };
    let golden = crate::common::Golden::open("qwen3_moe");
    let logits = load(false).logits(golden.ids("input_ids")).unwrap();
    crate::common::assert_close("logits", &logits, golden.values("logits"), 1e-4);
    server.take_requests();
    assert_eq!(load(true).logits(golden.ids("input_ids")).unwrap(), logits);
    assert!(server.take_requests().is_empty(), "offline makes no request");
}
