//! The environment variables of downloads, by the names that `huggingface_hub` gave them.

use moexperts_core::Variable;

use crate::disk;

/// The environment variables that downloads read.
pub const VARIABLES: &[Variable] = &[
    HF_HOME,
    HF_HUB_CACHE,
    HUGGINGFACE_HUB_CACHE,
    HF_ENDPOINT,
    HF_TOKEN,
    HUGGING_FACE_HUB_TOKEN,
    HF_TOKEN_PATH,
    HF_HUB_DISABLE_IMPLICIT_TOKEN,
    HF_HUB_OFFLINE,
    TRANSFORMERS_OFFLINE,
    HF_HUB_ETAG_TIMEOUT,
    HF_HUB_DOWNLOAD_TIMEOUT,
    HF_HUB_DISABLE_SYMLINKS,
    HF_HUB_DISABLE_PROGRESS_BARS,
    SSL_CERT_FILE,
    SSL_CERT_DIR,
    REQUESTS_CA_BUNDLE,
    CURL_CA_BUNDLE,
    Variable::new("ALL_PROXY", "proxy of all requests; HTTPS_PROXY, then HTTP_PROXY").secret(),
    Variable::new("HTTPS_PROXY", "proxy of requests; HTTP_PROXY").secret(),
    Variable::new("HTTP_PROXY", "proxy of requests; none").secret(),
    Variable::new("NO_PROXY", "hosts that are reached without a proxy; none"),
    disk::XDG_CACHE_HOME,
    disk::HOME,
];

/// Variables that change what `huggingface_hub` or older programs do, and do nothing here: what is set
/// of them is named in the log.
pub(super) const NOT_OBEYED: [(&str, &str); 5] = [
    ("TRANSFORMERS_CACHE", "transformers 5 does not read it either; set HF_HUB_CACHE"),
    ("PYTORCH_TRANSFORMERS_CACHE", "transformers 5 does not read it either; set HF_HUB_CACHE"),
    ("PYTORCH_PRETRAINED_BERT_CACHE", "transformers 5 does not read it either; set HF_HUB_CACHE"),
    ("HUGGINGFACE_CO_STAGING", "set HF_ENDPOINT and HF_HUB_CACHE"),
    ("HF_OIDC_RESOURCE", "set HF_TOKEN to a token"),
];

pub(super) const HF_HOME: Variable =
    Variable::new("HF_HOME", "folder of the hub's cache and token; ~/.cache/huggingface");
pub(super) const HF_HUB_CACHE: Variable =
    Variable::new("HF_HUB_CACHE", "folder of downloaded models; hub in HF_HOME");
pub(super) const HUGGINGFACE_HUB_CACHE: Variable =
    Variable::new("HUGGINGFACE_HUB_CACHE", "older name of HF_HUB_CACHE, which wins");
pub(super) const HF_ENDPOINT: Variable =
    Variable::new("HF_ENDPOINT", "address of the hub; https://huggingface.co");
pub(super) const HF_TOKEN: Variable =
    Variable::new("HF_TOKEN", "access token for private and gated models").secret();
pub(super) const HUGGING_FACE_HUB_TOKEN: Variable =
    Variable::new("HUGGING_FACE_HUB_TOKEN", "older name of HF_TOKEN, which wins").secret();
pub(super) const HF_TOKEN_PATH: Variable =
    Variable::new("HF_TOKEN_PATH", "file with the access token; token in HF_HOME");
pub(super) const HF_HUB_DISABLE_IMPLICIT_TOKEN: Variable = Variable::new(
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
    "1 sends no token of a variable or a file; they are sent",
);
pub(super) const HF_HUB_OFFLINE: Variable =
    Variable::new("HF_HUB_OFFLINE", "1 uses the cache alone and never the network");
pub(super) const TRANSFORMERS_OFFLINE: Variable =
    Variable::new("TRANSFORMERS_OFFLINE", "older name of HF_HUB_OFFLINE, which wins");
pub(super) const HF_HUB_ETAG_TIMEOUT: Variable = Variable::new(
    "HF_HUB_ETAG_TIMEOUT",
    "seconds until a silent hub is given up and the cache is used; 10",
);
pub(super) const HF_HUB_DOWNLOAD_TIMEOUT: Variable =
    Variable::new("HF_HUB_DOWNLOAD_TIMEOUT", "seconds until a silent download is given up; 60");
pub(super) const HF_HUB_DISABLE_SYMLINKS: Variable = Variable::new(
    "HF_HUB_DISABLE_SYMLINKS",
    "1 puts files into snapshots by hard links or copies; symbolic links",
);
pub(super) const HF_HUB_DISABLE_PROGRESS_BARS: Variable =
    Variable::new("HF_HUB_DISABLE_PROGRESS_BARS", "1 shows no progress of downloads; it is shown");
pub(super) const SSL_CERT_FILE: Variable =
    Variable::new("SSL_CERT_FILE", "file of trusted certificates; the system's store");
pub(super) const SSL_CERT_DIR: Variable =
    Variable::new("SSL_CERT_DIR", "folder of trusted certificates; the system's store");
pub(super) const REQUESTS_CA_BUNDLE: Variable =
    Variable::new("REQUESTS_CA_BUNDLE", "trusted certificates where SSL_CERT_* are not set");
pub(super) const CURL_CA_BUNDLE: Variable =
    Variable::new("CURL_CA_BUNDLE", "trusted certificates where REQUESTS_CA_BUNDLE is not set");
