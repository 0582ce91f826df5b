//! Which files a model needs, and one file after the other.

use std::{
    collections::BTreeSet,
    error::Error as _,
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    cache::{RepositoryCache, cache_error, create_parent},
    client::{Answer, Client, Failure, RemoteFile, transfer},
    error::HubError,
    names::{self, CONFIG},
    settings::{HubOptions, Settings},
};
use crate::{
    checkpoint::{
        index::{self, INDEX_FILE, SINGLE_FILE},
        told,
    },
    files::{ADDITIONAL_CHAT_TEMPLATES, CHAT_TEMPLATE, OTHER_TOKENIZERS, TOKENIZER},
    progress::{Amount, Progress},
};

/// Files that a model may come without; the last three belong to multimodal ones.
const OPTIONAL: [&str; 12] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    CHAT_TEMPLATE,
    "chat_template.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
];

/// Files of repositories that hold something else than a model and tell what.
const OTHER_KINDS: [&str; 3] = ["adapter_config.json", "model_index.json", "params.json"];

/// Bytes that are read from the network and written to the disk at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// Downloads what a model needs, or finds it in the cache, and returns the snapshot folder.
///
/// The files: `config.json`; if the repository has them `generation_config.json`, those of the
/// tokenizer, the chat template and the image processor; all shards that
/// `model.safetensors.index.json` names, or else `model.safetensors`. All are of one commit, even
/// if the branch moves meanwhile.
///
/// A broken download leaves its part in the cache, and the next call requests only the rest. Any
/// number of threads and processes may fetch at once: each file is downloaded by one of them while
/// the others wait. A full commit hash that is in the cache needs no request at all, a branch one; a
/// model with several chat templates one more, for their names.
///
/// If the hub does not answer, refuses access or something else answers in its place, a model that
/// is whole in the cache is returned with a warning in the log. Only a revision or a file that the
/// hub says are gone are errors then. A cache that may not be written serves what it has.
///
/// # Errors
/// See [`HubError`]; an invalid `repo_id` or revision is refused before any request.
pub fn fetch(
    repo_id: &str,
    options: &HubOptions,
    progress: Arc<dyn Progress>,
) -> Result<PathBuf, HubError> {
    let settings = Settings::from_environment(options);
    names::check_repo_id(repo_id)?;
    names::check_revision(&settings.revision)?;
    let cache = RepositoryCache::new(&settings.cache_dir, repo_id, settings.symlinks);
    let progress: Arc<dyn Progress> = if settings.shows_progress { progress } else { Arc::new(()) };
    let fetch = |client| Fetch {
        repo_id,
        settings: &settings,
        client,
        cache: &cache,
        progress: &*progress,
    };
    if settings.offline {
        return Ok(fetch(None).model()?);
    }
    match fetch(Some(Client::new(&settings, repo_id)?)).model() {
        Err(Failure::Unanswered(error)) if cache.has_snapshot_of(&settings.revision) => {
            from_cache(&fetch(None), error)
        }
        result => Ok(result?),
    }
}

/// What the cache has of a model whose hub did not answer.
fn from_cache(fetch: &Fetch<'_>, error: HubError) -> Result<PathBuf, HubError> {
    match fetch.model().map_err(HubError::from) {
        Ok(folder) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            tracing::warn!(
                "{error}{cause}; using the copy of `{}` in the cache, `{}`, which may be out of date",
                fetch.repo_id,
                folder.display()
            );
            Ok(folder)
        }
        Err(HubError::Offline { missing, repo_id, cache_dir }) => {
            Err(HubError::Incomplete { missing, repo_id, cache_dir, source: Box::new(error) })
        }
        Err(other) => Err(other),
    }
}

/// One attempt to get a model: from the hub, or from the cache alone.
struct Fetch<'a> {
    repo_id: &'a str,
    settings: &'a Settings,
    /// `None` in offline mode, or after the hub did not answer.
    client: Option<Client<'a>>,
    cache: &'a RepositoryCache,
    progress: &'a dyn Progress,
}

impl Fetch<'_> {
    /// Returns the snapshot folder, with everything that a model needs in it.
    fn model(&self) -> Result<PathBuf, Failure> {
        let commit = self.find_commit()?;
        let mut missing = Vec::new();
        let mut require = |file: &str| -> Result<(), Failure> {
            match self.optional(&commit, file)? {
                Some(_) => Ok(()),
                None if self.client.is_none() => {
                    missing.push(format!("`{file}`"));
                    Ok(())
                }
                None if file == CONFIG => Err(self.no_config(&commit)),
                None => Err(self.missing_file(file).into()),
            }
        };
        require(CONFIG)?;
        for file in OPTIONAL {
            self.optional(&commit, file)?;
        }
        if !self.cache.snapshot(&commit).join(TOKENIZER).exists() {
            for file in OTHER_TOKENIZERS {
                self.optional(&commit, file)?;
            }
        }
        self.additional_templates(&commit)?;
        match self.optional(&commit, INDEX_FILE)? {
            Some(index) => shards(&index)?.iter().try_for_each(|shard| require(shard))?,
            None => require(SINGLE_FILE)?,
        }
        if !missing.is_empty() {
            return Err(self.offline(list(&missing)).into());
        }
        self.cache.write_ref(&self.settings.revision, &commit);
        Ok(self.cache.snapshot(&commit))
    }

    /// The commit the revision stands at: the hub says so, or without it the cache.
    fn find_commit(&self) -> Result<String, Failure> {
        let revision = &self.settings.revision;
        let Some(client) = &self.client else {
            let known = self.cache.commit_of(revision);
            return Ok(known.ok_or_else(|| self.offline(format!("revision `{revision}`")))?);
        };
        if names::is_commit(revision) {
            return Ok(revision.clone());
        }
        match client.describe(revision, CONFIG)? {
            Answer::File(remote) => Ok(remote.commit),
            Answer::Absent { .. } => Err(self.no_config(revision)),
        }
    }

    /// The chat templates beside the default, whose names only a listing tells.
    fn additional_templates(&self, commit: &str) -> Result<(), Failure> {
        let Some(client) = &self.client else { return Ok(()) };
        let has_default = self.cache.snapshot(commit).join(CHAT_TEMPLATE).exists();
        if !has_default || self.cache.is_known_absent(commit, ADDITIONAL_CHAT_TEMPLATES) {
            return Ok(());
        }
        let mut names = client.names_in(commit, ADDITIONAL_CHAT_TEMPLATES)?;
        names.retain(|name| name.ends_with(".jinja"));
        if names.is_empty() {
            self.cache.mark_absent(commit, ADDITIONAL_CHAT_TEMPLATES);
        }
        for name in names {
            self.optional(commit, &format!("{ADDITIONAL_CHAT_TEMPLATES}/{name}"))?;
        }
        Ok(())
    }

    /// Why a repository has no config: it may be something else than a model.
    fn no_config(&self, revision: &str) -> Failure {
        for file in OTHER_KINDS {
            if let Some(client) = &self.client
                && let Ok(Answer::File(remote)) = client.describe(revision, file)
                && let Ok(Some(_)) = self.optional(&remote.commit, file)
                && let Some(problem) = told(&self.cache.snapshot(&remote.commit))
            {
                return HubError::NotAModel { repo_id: self.repo_id.to_owned(), problem }.into();
            }
        }
        self.missing_file(CONFIG).into()
    }

    fn missing_file(&self, file: &str) -> HubError {
        HubError::MissingFile {
            file: file.to_owned(),
            repo_id: self.repo_id.to_owned(),
            revision: self.settings.revision.clone(),
        }
    }

    fn offline(&self, missing: String) -> HubError {
        let cache_dir = self.settings.cache_dir.clone();
        HubError::Offline { missing, repo_id: self.repo_id.to_owned(), cache_dir }
    }

    /// The file in the snapshot, downloaded if need be; `None` if there is none to get.
    fn optional(&self, commit: &str, file: &str) -> Result<Option<PathBuf>, Failure> {
        let path = self.cache.snapshot(commit).join(file);
        if path.exists() {
            return Ok(Some(path));
        }
        let Some(client) = &self.client else { return Ok(None) };
        if self.cache.is_known_absent(commit, file) {
            return Ok(None);
        }
        let remote = match client.describe(commit, file)? {
            Answer::File(remote) => remote,
            Answer::Absent { certain } => {
                if certain {
                    self.cache.mark_absent(commit, file);
                }
                return Ok(None);
            }
        };
        let lock = self.cache.lock(&remote.etag);
        let partial = self.cache.partial(&remote.etag, lock.is_some());
        let stored = self.blob(client, commit, file, &remote, &partial);
        if lock.is_none() {
            // Its name is not used again, so that nothing continues it.
            let _ = fs::remove_file(&partial);
        }
        stored?;
        self.cache.link(commit, file, &remote.etag)?;
        Ok(Some(path))
    }

    /// Brings the blob into the cache, starting from what an earlier call left.
    fn blob(
        &self,
        client: &Client<'_>,
        commit: &str,
        file: &str,
        remote: &RemoteFile,
        partial: &Path,
    ) -> Result<(), HubError> {
        let blob = self.cache.blob(&remote.etag);
        if fs::metadata(&blob).is_ok_and(|metadata| metadata.len() == remote.bytes) {
            return Ok(());
        }
        create_parent(partial)?;
        self.progress.start(file, Amount::Bytes(remote.bytes));
        self.download(client, commit, file, remote, partial)?;
        fs::rename(partial, &blob).map_err(cache_error(&blob))?;
        self.progress.finish(file);
        Ok(())
    }

    fn download(
        &self,
        client: &Client<'_>,
        commit: &str,
        file: &str,
        remote: &RemoteFile,
        partial: &Path,
    ) -> Result<(), HubError> {
        let in_cache = || cache_error(partial);
        let mut out =
            OpenOptions::new().create(true).append(true).open(partial).map_err(in_cache())?;
        let mut have = out.metadata().map_err(in_cache())?.len();
        if have > remote.bytes {
            out.set_len(0).map_err(in_cache())?;
            have = 0;
        }
        if have == remote.bytes {
            return Ok(());
        }
        let (response, start) = client.open(commit, file, have)?;
        if start < have {
            out.set_len(start).map_err(in_cache())?;
            have = start;
        }
        if have > 0 {
            self.progress.advance(file, have);
        }
        // One byte more than expected is enough to tell that the server sends too much.
        let mut body = response.into_body().into_reader().take(remote.bytes - have + 1);
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = body.read(&mut buffer).map_err(|error| transfer(file, error))?;
            if count == 0 {
                break;
            }
            out.write_all(&buffer[..count]).map_err(in_cache())?;
            have += count as u64;
            self.progress.advance(file, count as u64);
        }
        if have == remote.bytes {
            return Ok(());
        }
        let expected = remote.bytes;
        if have > expected {
            out.set_len(0).map_err(in_cache())?;
            return Err(transfer(file, format!("the server sent more than {expected} bytes")));
        }
        Err(transfer(file, format!("the server sent {have} of {expected} bytes")))
    }
}

/// The files an index names, each once.
fn shards(path: &Path) -> Result<BTreeSet<String>, HubError> {
    let json = fs::read(path).map_err(cache_error(path))?;
    let shards = index::read(&json);
    let shards =
        shards.map_err(|problem| HubError::Index { file: INDEX_FILE.to_owned(), problem })?;
    Ok(shards.into_keys().collect())
}

/// The first names of a list, and how many more there are.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 3;
    match names.len().saturating_sub(SHOWN) {
        0 => names.join(", "),
        more => format!("{} and {more} more files", names[..SHOWN].join(", ")),
    }
}
