//! A hub with one repository, on 127.0.0.1: it answers as the real one does, redirects included.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::common::data;

pub(crate) const REPO: &str = "org/tiny-moe";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const BRANCHES: [&str; 2] = ["main", "refs/pr/1"];

/// How the repository behaves; tests change it between fetches.
#[derive(Default)]
pub(crate) struct Behaviour {
    /// Cut the connection after this many bytes of the file's body, once.
    pub(crate) break_off: Option<(String, usize)>,
    /// Answer 401 to requests without this token.
    pub(crate) token: Option<String>,
    /// Answer ranges with 200 and the whole file.
    pub(crate) ignores_ranges: bool,
    /// Announce this size instead of the real one.
    pub(crate) announced_bytes: Option<usize>,
    /// Answer all requests with this status.
    pub(crate) status: Option<&'static str>,
    /// What goes with the status.
    pub(crate) error_code: Option<&'static str>,
    /// Answer only requests for this path of a repository with the status.
    pub(crate) only: Option<&'static str>,
}

/// One request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

pub(crate) struct HubServer {
    state: Arc<State>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    port: u16,
    /// With a certificate for `localhost`, if the hub speaks TLS.
    tls: Option<Arc<ServerConfig>>,
    behaviour: Mutex<Behaviour>,
    requests: Mutex<Vec<Request>>,
    stopped: Mutex<bool>,
}

impl HubServer {
    pub(crate) fn start(files: &[(&str, &[u8])]) -> Self {
        Self::new(files, None)
    }

    /// A hub whose certificate `hub/authority.pem` has signed.
    pub(crate) fn start_with_tls(files: &[(&str, &[u8])]) -> Self {
        let file = |name: &str| data("hub").join(name);
        let certificate = CertificateDer::from_pem_file(file("localhost.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(file("localhost.key")).unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate], key).unwrap();
        Self::new(files, Some(Arc::new(config)))
    }

    fn new(files: &[(&str, &[u8])], tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            files: files.iter().map(|(name, bytes)| ((*name).into(), bytes.to_vec())).collect(),
            port: address.port(),
            tls,
            behaviour: Mutex::default(),
            requests: Mutex::default(),
            stopped: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if *shared.stopped.lock().unwrap() {
                    return;
                }
                let shared = Arc::clone(&shared);
                // A client that gives up makes writes fail, which is its right.
                std::thread::spawn(move || stream.map(|stream| shared.accept(stream)));
            }
        });
        Self { state, address, thread: Some(thread) }
    }

    pub(crate) fn endpoint(&self) -> String {
        match self.state.tls {
            Some(_) => format!("https://localhost:{}", self.address.port()),
            None => format!("http://{}", self.address),
        }
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().unwrap() = behaviour;
    }

    /// The requests since the last call.
    pub(crate) fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.state.requests.lock().unwrap())
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        *self.state.stopped.lock().unwrap() = true;
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

impl State {
    fn accept(&self, stream: TcpStream) -> std::io::Result<()> {
        let Some(config) = &self.tls else { return self.serve(stream) };
        let connection = ServerConnection::new(Arc::clone(config)).unwrap();
        self.serve(StreamOwned::new(connection, stream))
    }

    fn serve(&self, mut stream: impl Read + Write) -> std::io::Result<()> {
        let request = read_request(&mut stream)?;
        self.requests.lock().unwrap().push(request.clone());
        let behaviour = self.behaviour.lock().unwrap();
        let (status, required) = (behaviour.status, behaviour.token.clone());
        let meant = behaviour.only.is_none_or(|only| request.path.ends_with(only));
        let code = behaviour.error_code.map(|code| ("X-Error-Code", code.to_owned()));
        drop(behaviour);
        if let Some(status) = status.filter(|_| meant) {
            return answer(&mut stream, status, code.as_slice(), &[]);
        }
        if let Some(hash) = request.path.strip_prefix("/storage/") {
            let (name, bytes) = self.files.iter().find(|(name, _)| etag(name) == hash).unwrap();
            // As on the real storage: its own ETag, and nothing about the repository.
            return self.send(stream, &request, name, bytes, &[("ETag", "\"storage\"".into())]);
        }
        if required.is_some_and(|t| request.authorization != Some(format!("Bearer {t}"))) {
            return answer(&mut stream, "401 Unauthorized", &[], &[]);
        }
        let tree = format!("/api/models/{REPO}/tree/{COMMIT}/");
        if let Some(folder) = request.path.strip_prefix(&tree) {
            return self.list(stream, folder);
        }
        if let Some(name) = request.path.strip_prefix("/api/resolve-cache/") {
            let headers = [("ETag", format!("W/\"{}\"", etag(name))), commit_header()];
            return self.send(stream, &request, name, &self.files[name], &headers);
        }
        self.resolve(stream, &request)
    }

    fn list(&self, mut stream: impl Write, folder: &str) -> std::io::Result<()> {
        let inside = |name: &&String| name.starts_with(&format!("{folder}/"));
        let entry = |name: &String| format!(r#"{{"type": "file", "path": "{name}", "size": 1}}"#);
        let entries: Vec<String> = self.files.keys().filter(inside).map(entry).collect();
        if entries.is_empty() {
            let code = [("X-Error-Code", "EntryNotFound".into())];
            return answer(&mut stream, "404 Not Found", &code, &[]);
        }
        let body = format!("[{}]", entries.join(", "));
        let length = [("Content-Length", body.len().to_string())];
        answer(&mut stream, "200 OK", &length, body.as_bytes())
    }

    fn resolve(&self, mut stream: impl Write, request: &Request) -> std::io::Result<()> {
        let rest = request.path.strip_prefix(&format!("/{REPO}/resolve/"));
        let Some((revision, name)) = rest.and_then(|rest| rest.split_once('/')) else {
            let code = [("X-Error-Code", "RepoNotFound".into())];
            let anonymous = request.authorization.is_none();
            let status = if anonymous { "401 Unauthorized" } else { "404 Not Found" };
            return answer(&mut stream, status, &code, &[]);
        };
        let revision = revision.replace("%2F", "/");
        if revision != COMMIT && !BRANCHES.contains(&revision.as_str()) {
            let code = [("X-Error-Code", "RevisionNotFound".into())];
            return answer(&mut stream, "404 Not Found", &code, &[]);
        }
        let Some(bytes) = self.files.get(name) else {
            let code = [("X-Error-Code", "EntryNotFound".into()), commit_header()];
            return answer(&mut stream, "404 Not Found", &code, &[]);
        };
        if !name.ends_with(".safetensors") {
            let location = [("Location", format!("/api/resolve-cache/{name}"))];
            return answer(&mut stream, "307 Temporary Redirect", &location, &[]);
        }
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let announced = self.behaviour.lock().unwrap().announced_bytes.unwrap_or(bytes.len());
        let headers = [
            // Another name of the same machine, so that clients see another host.
            ("Location", format!("{scheme}://localhost:{}/storage/{}", self.port, etag(name))),
            ("X-Linked-ETag", format!("\"{}\"", etag(name))),
            ("X-Linked-Size", announced.to_string()),
            commit_header(),
        ];
        answer(&mut stream, "302 Found", &headers, &[])
    }

    fn send(
        &self,
        mut stream: impl Write,
        request: &Request,
        name: &str,
        bytes: &[u8],
        headers: &[(&str, String)],
    ) -> std::io::Result<()> {
        let mut behaviour = self.behaviour.lock().unwrap();
        let range = request.range.as_ref().filter(|_| !behaviour.ignores_ranges);
        let start: usize = range.map_or(0, |range| {
            range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap()
        });
        let mut sent = bytes.len();
        if request.method == "GET" && behaviour.break_off.as_ref().is_some_and(|b| b.0 == name) {
            sent = behaviour.break_off.take().unwrap().1;
        }
        drop(behaviour);
        let mut headers = headers.to_vec();
        headers.push(("Content-Length", (bytes.len() - start).to_string()));
        let status = if range.is_some() {
            let last = bytes.len() - 1;
            headers.push(("Content-Range", format!("bytes {start}-{last}/{}", bytes.len())));
            "206 Partial Content"
        } else {
            "200 OK"
        };
        let body = if request.method == "HEAD" { &[] } else { &bytes[start..sent] };
        answer(&mut stream, status, &headers, body)
    }
}

/// The hash of a file's content in the cache; here just its name.
pub(crate) fn etag(name: &str) -> String {
    format!("hash-of-{}", name.replace('/', "-"))
}

fn commit_header() -> (&'static str, String) {
    ("X-Repo-Commit", COMMIT.to_owned())
}

fn read_request(stream: impl Read) -> std::io::Result<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().ok_or(std::io::ErrorKind::UnexpectedEof)??;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut request = Request { method, path, range: None, authorization: None };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.to_owned()),
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    Ok(request)
}

fn answer(
    stream: &mut impl Write,
    status: &str,
    headers: &[(&str, String)],
    body: &[u8],
) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !headers.iter().any(|(name, _)| *name == "Content-Length") {
        head += "Content-Length: 0\r\n";
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"\r\n")?;
    stream.write_all(body)
}
