//! Which files a model needs, and one file after the other.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    cache::{RepositoryCache, cache_error, create_parent},
    client::{Answer, Client, RemoteFile, transfer},
    error::HubError,
    names::{self, CONFIG},
    settings::{HubOptions, Settings},
};
use crate::{
    checkpoint::index::{self, INDEX_FILE, SINGLE_FILE},
    progress::{Amount, Progress},
};

/// Files that a model may come without; the last three belong to multimodal ones.
const OPTIONAL: [&str; 8] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
];

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
/// the others wait. A full commit hash that is in the cache needs no request at all, a branch one.
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
    let cache = RepositoryCache::new(&settings.cache_dir, repo_id);
    let client = (!settings.offline).then(|| Client::new(&settings, repo_id));
    let commit = find_commit(repo_id, &settings, client.as_ref(), &cache)?;
    let fetch = Fetch { repo_id, settings: &settings, commit, client, cache, progress };
    fetch.model()?;
    fetch.cache.write_ref(&settings.revision, &fetch.commit)?;
    Ok(fetch.cache.snapshot(&fetch.commit))
}

/// One call of [`fetch`], with its commit known.
struct Fetch<'a> {
    repo_id: &'a str,
    settings: &'a Settings,
    commit: String,
    /// `None` in offline mode.
    client: Option<Client<'a>>,
    cache: RepositoryCache,
    progress: Arc<dyn Progress>,
}

impl Fetch<'_> {
    fn model(&self) -> Result<(), HubError> {
        self.required(CONFIG)?;
        for file in OPTIONAL {
            self.optional(file)?;
        }
        match self.optional(INDEX_FILE)? {
            Some(index) => shards(&index)?.iter().try_for_each(|shard| self.required(shard)),
            None => self.required(SINGLE_FILE),
        }
    }

    fn required(&self, file: &str) -> Result<(), HubError> {
        match self.optional(file)? {
            Some(_) => Ok(()),
            None if self.client.is_none() => {
                Err(offline(self.repo_id, self.settings, format!("`{file}`")))
            }
            None => Err(HubError::MissingFile {
                file: file.to_owned(),
                repo_id: self.repo_id.to_owned(),
                revision: self.settings.revision.clone(),
            }),
        }
    }

    /// The file in the snapshot, downloaded if need be; `None` if there is none to get.
    fn optional(&self, file: &str) -> Result<Option<PathBuf>, HubError> {
        let path = self.cache.snapshot(&self.commit).join(file);
        if path.exists() {
            return Ok(Some(path));
        }
        let Some(client) = &self.client else { return Ok(None) };
        if self.cache.is_known_absent(&self.commit, file) {
            return Ok(None);
        }
        let remote = match client.describe(&self.commit, file)? {
            Answer::File(remote) => remote,
            Answer::Absent { certain } => {
                if certain {
                    self.cache.mark_absent(&self.commit, file)?;
                }
                return Ok(None);
            }
        };
        let _lock = self.cache.lock(&remote.etag)?;
        self.blob(client, file, &remote)?;
        self.cache.link(&self.commit, file, &remote.etag)?;
        Ok(Some(path))
    }

    /// Brings the blob into the cache, starting from what an earlier call left. Needs the lock.
    fn blob(&self, client: &Client<'_>, file: &str, remote: &RemoteFile) -> Result<(), HubError> {
        let blob = self.cache.blob(&remote.etag);
        if fs::metadata(&blob).is_ok_and(|metadata| metadata.len() == remote.bytes) {
            return Ok(());
        }
        let partial = self.cache.partial(&remote.etag);
        create_parent(&partial)?;
        self.progress.start(file, Amount::Bytes(remote.bytes));
        self.download(client, file, remote, &partial)?;
        fs::rename(&partial, &blob).map_err(cache_error(&blob))?;
        self.progress.finish(file);
        Ok(())
    }

    fn download(
        &self,
        client: &Client<'_>,
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
        let (response, start) = client.open(&self.commit, file, have)?;
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

/// The commit the revision stands at: the hub says so, or offline the cache.
fn find_commit(
    repo_id: &str,
    settings: &Settings,
    client: Option<&Client<'_>>,
    cache: &RepositoryCache,
) -> Result<String, HubError> {
    let revision = &settings.revision;
    let Some(client) = client else {
        let known = cache.commit_of(revision);
        return known.ok_or_else(|| offline(repo_id, settings, format!("revision `{revision}`")));
    };
    if names::is_commit(revision) {
        return Ok(revision.clone());
    }
    match client.describe(revision, CONFIG)? {
        Answer::File(remote) => Ok(remote.commit),
        Answer::Absent { .. } => Err(HubError::MissingFile {
            file: CONFIG.to_owned(),
            repo_id: repo_id.to_owned(),
            revision: revision.clone(),
        }),
    }
}

fn offline(repo_id: &str, settings: &Settings, missing: String) -> HubError {
    let cache_dir = settings.cache_dir.clone();
    HubError::Offline { missing, repo_id: repo_id.to_owned(), cache_dir }
}

/// The files an index names, each once.
fn shards(path: &Path) -> Result<BTreeSet<String>, HubError> {
    let json = fs::read(path).map_err(cache_error(path))?;
    let shards = index::read(&json);
    let shards =
        shards.map_err(|problem| HubError::Index { file: INDEX_FILE.to_owned(), problem })?;
    Ok(shards.into_keys().collect())
}
