//! The requests a download needs: what a file is (`HEAD`), its bytes (`GET` with a range), and which files
//! are in a folder.

use serde::Deserialize;
use ureq::{
    Agent, Body, RequestBuilder,
    config::RedirectAuthHeaders,
    http::{Response, StatusCode, Uri, header},
    tls::TlsConfig,
    typestate::WithoutBody,
};

use super::{
    certificates::root_certificates,
    error::HubError,
    names::{CONFIG, encode, is_file_name},
    settings::Settings,
};

/// Redirects within the hub, where renamed repositories are: one or two.
const MAX_REDIRECTS: usize = 5;

/// The most bytes of the listing of a folder.
const LISTING_BYTES: u64 = 1 << 20;

/// An entry of the listing of a folder.
#[derive(Deserialize)]
struct ListedFile {
    /// From the top of the repository.
    path: String,
}

/// What a transfer failed of.
type TransferCause = Box<dyn std::error::Error + Send + Sync>;

/// Requests the files of one repository from one hub.
pub(super) struct Client<'a> {
    agent: Agent,
    settings: &'a Settings,
    repo_id: &'a str,
}

/// Why a step of a fetch failed.
pub(super) enum Failure {
    /// No hub answered, or it would not say: what is in the cache may still do.
    Unanswered(HubError),
    /// The cache is no way out.
    Final(HubError),
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

impl From<Failure> for HubError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unanswered(error) | Failure::Final(error) => error,
        }
    }
}

/// What the hub says about a file.
pub(super) enum Answer {
    File(RemoteFile),
    /// The revision is there and the file is not; certain if the hub named it as missing.
    Absent {
        certain: bool,
    },
}

/// One file at one commit.
pub(super) struct RemoteFile {
    pub(super) commit: String,
    /// Names the content: git's hash of small files, SHA-256 of large ones.
    pub(super) etag: String,
    pub(super) bytes: u64,
}

impl<'a> Client<'a> {
    pub(super) fn new(settings: &'a Settings, repo_id: &'a str) -> Result<Self, HubError> {
        let certificates = root_certificates(settings.certificates.as_ref())?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .tls_config(TlsConfig::builder().root_certs(certificates).build())
            .timeout_connect(Some(settings.download_timeout))
            .timeout_per_read(Some(settings.download_timeout))
            .user_agent(concat!("moexperts/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { agent: config.into(), settings, repo_id })
    }

    /// Describes `file` at a branch, tag or commit. As in huggingface_hub the only refusal that rules
    /// out the cache is that the repository has no such revision.
    pub(super) fn describe(&self, revision: &str, file: &str) -> Result<Answer, Failure> {
        let response = self.head(revision, file).map_err(Failure::Unanswered)?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND {
            let certain = names_missing_entry(&response);
            // The config is requested first: without it the revision may not be there either.
            if certain || file != CONFIG {
                return Ok(Answer::Absent { certain });
            }
        }
        if !status.is_success() && !status.is_redirection() {
            let error = self.refusal(file, &response);
            return Err(match header_text(&response, "x-error-code") {
                Some("RevisionNotFound") => Failure::Final(error),
                _ => Failure::Unanswered(error),
            });
        }
        Ok(Answer::File(describe_file(file, &response).map_err(Failure::Unanswered)?))
    }

    /// Opens `file` from byte `start` on. Returns the answer and where its body starts: at 0 if
    /// the server ignores ranges.
    pub(super) fn open(
        &self,
        commit: &str,
        file: &str,
        start: u64,
    ) -> Result<(Response<Body>, u64), HubError> {
        let mut request = self.authorised(self.agent.get(self.url(commit, file)));
        if start > 0 {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        let response = request.call().map_err(|error| transfer(file, error))?;
        match response.status() {
            StatusCode::OK => Ok((response, 0)),
            StatusCode::PARTIAL_CONTENT => {
                let range = header_text(&response, "content-range").unwrap_or_default();
                if range.starts_with(&format!("bytes {start}-")) {
                    return Ok((response, start));
                }
                Err(transfer(file, format!("requested bytes {start}-, the server sent `{range}`")))
            }
            _ => Err(self.refusal(file, &response)),
        }
    }

    /// The names of the files in a folder; none if the hub does not list it, as mirrors may not.
    pub(super) fn names_in(&self, commit: &str, folder: &str) -> Result<Vec<String>, Failure> {
        let (endpoint, repo) = (&self.settings.endpoint, self.repo_id);
        let request =
            self.agent.get(format!("{endpoint}/api/models/{repo}/tree/{commit}/{folder}"));
        let patience = Some(self.settings.etag_timeout);
        let request = request.config().timeout_connect(patience).timeout_per_read(patience).build();
        let unanswered = |error: TransferCause| Failure::Unanswered(transfer(folder, error));
        let response = self.authorised(request).call().map_err(|error| unanswered(error.into()))?;
        if !response.status().is_success() {
            return Ok(Vec::new());
        }
        let body = response.into_body().into_with_config().limit(LISTING_BYTES).read_to_vec();
        let listing: Vec<ListedFile> =
            serde_json::from_slice(&body.map_err(|e| unanswered(e.into()))?)
                .map_err(|error| unanswered(error.into()))?;
        let name = |file: &ListedFile| {
            let name = file.path.strip_prefix(folder)?.strip_prefix('/')?;
            is_file_name(name).then(|| name.to_owned())
        };
        Ok(listing.iter().filter_map(name).collect())
    }

    /// Follows redirects within the hub by hand: the one that leaves it, to the storage, carries
    /// the headers that describe the file, and the storage's own answer does not.
    fn head(&self, revision: &str, file: &str) -> Result<Response<Body>, HubError> {
        let mut url = self.url(revision, file);
        for _ in 0..=MAX_REDIRECTS {
            let patience = Some(self.settings.etag_timeout);
            let request = self.agent.head(&url).config().max_redirects(0);
            let request = request.timeout_connect(patience).timeout_per_read(patience).build();
            let response =
                self.authorised(request).call().map_err(|error| transfer(file, error))?;
            let location = header_text(&response, "location");
            match location.filter(|_| response.status().is_redirection()) {
                Some(path) if path.starts_with('/') && !path.starts_with("//") => {
                    url = origin(&url).ok_or_else(|| transfer(file, bad_url(&url)))? + path;
                }
                _ => return Ok(response),
            }
        }
        Err(transfer(file, format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// Compression would make servers ignore ranges and hide the length.
    fn authorised(&self, request: RequestBuilder<WithoutBody>) -> RequestBuilder<WithoutBody> {
        let request = request.header(header::ACCEPT_ENCODING, "identity");
        match &self.settings.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    fn url(&self, revision: &str, file: &str) -> String {
        let (revision, file) = (encode(revision, ""), encode(file, "/"));
        format!("{}/{}/resolve/{revision}/{file}", self.settings.endpoint, self.repo_id)
    }

    fn refusal(&self, file: &str, response: &Response<Body>) -> HubError {
        let unknown = header_text(response, "x-error-code") == Some("RepoNotFound");
        match response.status().as_u16() {
            404 => self.not_found(),
            // Without a token the hub answers this for repositories that do not exist.
            401 if unknown => self.not_found(),
            status @ (401 | 403) => HubError::Unauthorized {
                repo_id: self.repo_id.to_owned(),
                endpoint: self.settings.endpoint.clone(),
                status,
                token_sent: self.settings.token.is_some(),
            },
            _ => transfer(file, format!("the server answered HTTP {}", response.status())),
        }
    }

    fn not_found(&self) -> HubError {
        HubError::NotFound {
            repo_id: self.repo_id.to_owned(),
            revision: self.settings.revision.clone(),
            endpoint: self.settings.endpoint.clone(),
        }
    }
}

/// Reads what a hub's headers say; those of a proxy's page do not.
fn describe_file(file: &str, response: &Response<Body>) -> Result<RemoteFile, HubError> {
    let text = |name: &str| header_text(response, name);
    let usable = |name: Option<&str>, header: &str| match name {
        Some(name) if is_file_name(name) => Ok(name.to_owned()),
        _ => Err(malformed(file, header)),
    };
    let length = text("content-length").filter(|_| response.status().is_success());
    let bytes = text("x-linked-size").or(length);
    let bytes = bytes.and_then(|bytes| bytes.parse().ok());
    Ok(RemoteFile {
        commit: usable(text("x-repo-commit"), "X-Repo-Commit")?,
        etag: usable(text("x-linked-etag").or_else(|| text("etag")).map(clean_etag), "ETag")?,
        bytes: bytes.ok_or_else(|| malformed(file, "Content-Length"))?,
    })
}

/// Wraps what went wrong while `file` was requested or read.
pub(super) fn transfer(file: &str, source: impl Into<TransferCause>) -> HubError {
    HubError::Transfer { file: file.to_owned(), source: source.into() }
}

fn malformed(file: &str, header: &str) -> HubError {
    transfer(file, format!("the hub's answer has no usable {header} header"))
}

/// Mirrors may lack the code; the commit tells as well that the revision is there.
fn names_missing_entry(response: &Response<Body>) -> bool {
    match header_text(response, "x-error-code") {
        Some(code) => code == "EntryNotFound",
        None => header_text(response, "x-repo-commit").is_some(),
    }
}

fn clean_etag(etag: &str) -> &str {
    etag.trim_start_matches("W/").trim_matches('"')
}

fn header_text<'r>(response: &'r Response<Body>, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?))
}

fn bad_url(url: &str) -> String {
    format!("`{url}` is no URL")
}
