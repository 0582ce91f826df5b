//! What can go wrong between a repository id and its files on disk.

use std::path::PathBuf;

/// An error of [`fetch`](super::fetch()), grouped by who can fix it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A repository id or revision that the hub cannot have; no request was made.
    #[error("invalid {what} `{got}`, expected {expected}")]
    InvalidId {
        /// `repository id` or `revision`.
        what: &'static str,
        /// What was given.
        got: String,
        /// What it may look like.
        expected: &'static str,
    },
    /// The hub knows no such repository, or the repository no such revision.
    #[error("repository `{repo_id}` at revision `{revision}` was not found at {endpoint}")]
    NotFound {
        /// The repository.
        repo_id: String,
        /// The branch, tag or commit.
        revision: String,
        /// The address of the hub.
        endpoint: String,
    },
    /// The repository is there but lacks a file every model needs.
    #[error("repository `{repo_id}` at revision `{revision}` has no `{file}`")]
    MissingFile {
        /// The file.
        file: String,
        /// The repository.
        repo_id: String,
        /// The branch, tag or commit.
        revision: String,
    },
    /// The repository holds something else than a model.
    #[error("`{repo_id}` is {problem}")]
    NotAModel {
        /// The repository.
        repo_id: String,
        /// A LoRA adapter, for one, and the way out.
        problem: String,
    },
    /// The hub refused access: HTTP 401 or 403.
    #[error(
        "{endpoint} refused access to repository `{repo_id}`: HTTP {status}, {}",
        token_words(*.token_sent)
    )]
    Unauthorized {
        /// The repository.
        repo_id: String,
        /// The address of the hub.
        endpoint: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token went with the request.
        token_sent: bool,
    },
    /// Offline mode is on and the cache lacks something.
    #[error(
        "offline mode is on, and the cache `{}` has no {missing} of repository `{repo_id}`",
        cache_dir.display()
    )]
    Offline {
        /// What is missing: files or a revision, in backticks.
        missing: String,
        /// The repository.
        repo_id: String,
        /// The cache folder that was searched.
        cache_dir: PathBuf,
    },
    /// The hub did not answer and the cache has a part of the model.
    #[error(
        "the hub cannot be used, and the cache `{}` has no {missing} of repository `{repo_id}`",
        cache_dir.display()
    )]
    Incomplete {
        /// What is missing: files, in backticks.
        missing: String,
        /// The repository.
        repo_id: String,
        /// The cache folder that was searched.
        cache_dir: PathBuf,
        /// What became of the request.
        source: Box<HubError>,
    },
    /// The trusted certificates that a variable names cannot be read.
    #[error("{variable} names `{}`, which has no usable certificates: {problem}", path.display())]
    Certificates {
        /// The environment variable.
        variable: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The network, or a server that does not answer as a hub does. What arrived is kept.
    #[error("cannot download `{file}`")]
    Transfer {
        /// The file.
        file: String,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A shard index that cannot be used.
    #[error("{file}: {problem}")]
    Index {
        /// `model.safetensors.index.json`.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// The cache folder cannot be read or written.
    #[error("cannot use `{}` in the cache", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl HubError {
    /// What the user can do about it, where there is something to say.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::InvalidId { .. } | Self::Index { .. } | Self::NotAModel { .. } => None,
            Self::NotFound { .. } => Some(
                "check the spelling of the id and the revision; a private or gated repository \
                 also looks like this without a token in HF_TOKEN"
                    .to_owned(),
            ),
            Self::MissingFile { .. } => Some(
                "moexperts loads transformers-style repositories: config.json and safetensors \
                 weights"
                    .to_owned(),
            ),
            Self::Unauthorized { repo_id, endpoint, token_sent: false, .. } => Some(format!(
                "check the spelling of the id; for a private or gated repository accept its terms \
                 at {endpoint}/{repo_id} and set HF_TOKEN"
            )),
            Self::Unauthorized { repo_id, endpoint, token_sent: true, .. } => Some(format!(
                "check that the token is valid and may read the repository, and that its terms \
                 are accepted at {endpoint}/{repo_id}"
            )),
            Self::Offline { .. } => Some(
                "run once with a network and without HF_HUB_OFFLINE, or set HF_HUB_CACHE to a \
                 cache that has the model"
                    .to_owned(),
            ),
            Self::Certificates { variable, .. } => Some(format!(
                "set {variable} to a file of certificates in PEM form, or unset it to trust the \
                 system's"
            )),
            Self::Incomplete { source, .. } => source.hint(),
            Self::Transfer { .. } => Some(
                "run again: the download continues where it stopped; if it never starts, check \
                 the network and HF_ENDPOINT; a model already in the cache needs no network with \
                 HF_HUB_OFFLINE=1"
                    .to_owned(),
            ),
            Self::Cache { .. } => Some(
                "check the folder's permissions and free space, or set HF_HUB_CACHE to another one"
                    .to_owned(),
            ),
        }
    }
}

fn token_words(token_sent: bool) -> &'static str {
    if token_sent { "with a token" } else { "without a token" }
}
