//! The options, and the environment that fills what they leave open.

use std::{ffi::OsString, fmt, fs, path::PathBuf, time::Duration};

use moexperts_core::Variable;

use super::variables::*;
use crate::disk;

/// Of a hub that is reachable, as in huggingface_hub.
const ETAG_SECONDS: u64 = 10;
/// Longest silence within an answer. Longer than in huggingface_hub, which tries again by itself.
const DOWNLOAD_SECONDS: u64 = 60;

/// The hub where nothing else is set.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Where to fetch from and to. Unset fields are filled from the environment, then with defaults.
#[derive(Clone, Default)]
pub struct HubOptions {
    /// Branch, tag or commit; else `main`.
    pub revision: Option<String>,
    /// Sent to the endpoint, never to the storage behind it; else `HF_TOKEN`, else the file that
    /// `hf auth login` writes. An empty one sends none.
    pub token: Option<String>,
    /// The cache folder; else `HF_HUB_CACHE`, else `hub` in `HF_HOME` or `~/.cache/huggingface`.
    pub cache_dir: Option<PathBuf>,
    /// The hub's address; else `HF_ENDPOINT`, else `https://huggingface.co`.
    pub endpoint: Option<String>,
    /// Whether only the cache is used; also on if `HF_HUB_OFFLINE` is `1`, `true`, `yes` or `on`.
    pub offline: bool,
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("revision", &self.revision)
            .field("token", &self.token.as_ref().map(|_| "<hidden>"))
            .field("cache_dir", &self.cache_dir)
            .field("endpoint", &self.endpoint)
            .field("offline", &self.offline)
            .finish()
    }
}

/// What [`HubOptions`] and the environment say together.
pub(super) struct Settings {
    pub(super) revision: String,
    pub(super) token: Option<String>,
    pub(super) cache_dir: PathBuf,
    pub(super) endpoint: String,
    pub(super) offline: bool,
    pub(super) etag_timeout: Duration,
    pub(super) download_timeout: Duration,
    pub(super) symlinks: bool,
    pub(super) shows_progress: bool,
    /// The variable that names trusted certificates, and the file or folder.
    pub(super) certificates: Option<(&'static str, PathBuf)>,
}

impl Settings {
    pub(super) fn from_environment(options: &HubOptions) -> Self {
        for (name, way_out) in NOT_OBEYED {
            if Variable::get_named(name).is_some_and(|value| !value.is_empty()) {
                tracing::warn!("the environment variable {name} is not obeyed: {way_out}");
            }
        }
        Self::resolve(options, &|name| Variable::get_named(name).and_then(as_text))
    }

    /// - `read`: reads a variable; an empty one counts as unset
    fn resolve(options: &HubOptions, read: &dyn Fn(&str) -> Option<String>) -> Self {
        let variable = |variable: Variable| read(variable.name).filter(|value| !value.is_empty());
        let path = |name| variable(name).map(|value| PathBuf::from(expand(&value, read)));
        let flag = |name| variable(name).is_some_and(|value| is_true(&value));
        let home = path(HF_HOME).unwrap_or_else(|| {
            let caches = path(disk::XDG_CACHE_HOME);
            let caches = caches.or_else(|| Some(user_folder(read)?.join(".cache")));
            caches.unwrap_or_else(std::env::temp_dir).join("huggingface")
        });
        let cache_dir = options.cache_dir.clone();
        let cache_dir =
            cache_dir.or_else(|| path(HF_HUB_CACHE).or_else(|| path(HUGGINGFACE_HUB_CACHE)));
        let token = options.token.clone().or_else(|| {
            if flag(HF_HUB_DISABLE_IMPLICIT_TOKEN) {
                return None;
            }
            let named = variable(HF_TOKEN).or_else(|| variable(HUGGING_FACE_HUB_TOKEN));
            let file = path(HF_TOKEN_PATH).unwrap_or_else(|| home.join("token"));
            named.and_then(|token| clean(&token)).or_else(|| fs::read_to_string(file).ok())
        });
        let endpoint = options.endpoint.clone().or_else(|| variable(HF_ENDPOINT));
        let endpoint = endpoint.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let offline = variable(HF_HUB_OFFLINE).or_else(|| variable(TRANSFORMERS_OFFLINE));
        let certificates = [SSL_CERT_FILE, SSL_CERT_DIR, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE];
        Self {
            revision: options.revision.clone().unwrap_or_else(|| "main".to_owned()),
            token: token.and_then(|token| clean(&token)),
            cache_dir: cache_dir.unwrap_or_else(|| home.join("hub")),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            offline: options.offline || offline.is_some_and(|value| is_true(&value)),
            etag_timeout: seconds(HF_HUB_ETAG_TIMEOUT, &variable, ETAG_SECONDS),
            download_timeout: seconds(HF_HUB_DOWNLOAD_TIMEOUT, &variable, DOWNLOAD_SECONDS),
            symlinks: !flag(HF_HUB_DISABLE_SYMLINKS),
            shows_progress: !flag(HF_HUB_DISABLE_PROGRESS_BARS),
            certificates: certificates
                .into_iter()
                .find_map(|name| Some((name.name, PathBuf::from(variable(name)?)))),
        }
    }
}

fn as_text(value: OsString) -> Option<String> {
    value.into_string().ok()
}

/// The values that huggingface_hub takes for true.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

/// A token without the line breaks and spaces that pasting brings; `None` if nothing is left.
fn clean(token: &str) -> Option<String> {
    let token = token.replace(['\r', '\n'], "").trim().to_owned();
    (!token.is_empty()).then_some(token)
}

/// A number of seconds; what is none, and 0, leave the default.
fn seconds(name: Variable, read: &dyn Fn(Variable) -> Option<String>, default: u64) -> Duration {
    let number = read(name).and_then(|text| {
        let number = text.trim().parse().ok();
        if number.is_none() {
            tracing::warn!("{} is `{text}`, expected whole seconds; {default} are used", name.name);
        }
        number
    });
    Duration::from_secs(number.filter(|&seconds| seconds > 0).unwrap_or(default))
}

fn user_folder(read: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    read(disk::HOME.name).map(PathBuf::from).or_else(std::env::home_dir)
}

/// As Python's `expanduser` and `expandvars`: `~` at the start, `$NAME` and `${NAME}`; what is not set
/// stays as it is, and so does the `~name` of another user.
fn expand(path: &str, read: &dyn Fn(&str) -> Option<String>) -> String {
    let user = path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let path = match user.zip(user_folder(read)) {
        Some((rest, home)) => format!("{}{rest}", home.display()),
        None => path.to_owned(),
    };
    let mut expanded = String::new();
    let mut rest = path.as_str();
    while let Some(at) = rest.find('$') {
        expanded += &rest[..at];
        let after = &rest[at + 1..];
        let length = match after.strip_prefix('{') {
            Some(inner) => inner.find('}').map_or(0, |end| end + 2),
            None => {
                after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len())
            }
        };
        let name = after[..length].trim_start_matches('{').trim_end_matches('}');
        match read(name).filter(|_| length > 0) {
            Some(value) => expanded += &value,
            None => expanded += &rest[at..=at + length],
        }
        rest = &after[length..];
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn resolve(options: &HubOptions, variables: &[(&str, &str)]) -> Settings {
        Settings::resolve(options, &|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_fills_what_the_options_leave_open() {
        let settings = resolve(
            &HubOptions::default(),
            &[
                ("HF_HOME", "/nowhere"),
                ("HF_ENDPOINT", "https://mirror.example/"),
                ("HF_TOKEN", " hf_secret\n"),
                ("HF_HUB_OFFLINE", "yes"),
            ],
        );
        assert_eq!(settings.cache_dir, Path::new("/nowhere/hub"));
        assert_eq!(settings.endpoint, "https://mirror.example");
        assert_eq!(settings.token.as_deref(), Some("hf_secret"));
        assert_eq!(settings.revision, "main");
        assert!(settings.offline);
    }

    #[test]
    fn the_options_win_over_the_environment() {
        let options = HubOptions {
            revision: Some("v1".to_owned()),
            token: Some(String::new()),
            cache_dir: Some("/mine".into()),
            endpoint: Some("http://localhost:1".to_owned()),
            offline: false,
        };
        let variables = [
            ("HF_HOME", "/nowhere"),
            ("HF_HUB_CACHE", "/other"),
            ("HF_ENDPOINT", "https://mirror.example"),
            ("HF_TOKEN", "hf_secret"),
            ("HF_HUB_OFFLINE", "0"),
        ];
        let settings = resolve(&options, &variables);
        assert_eq!(settings.cache_dir, Path::new("/mine"));
        assert_eq!(settings.endpoint, "http://localhost:1");
        assert_eq!(settings.token, None);
        assert_eq!(settings.revision, "v1");
        assert!(!settings.offline);
    }

    #[test]
    fn hub_cache_wins_over_home_and_empty_counts_as_unset() {
        let variables = [("HF_HOME", "/nowhere"), ("HF_HUB_CACHE", "/other"), ("HF_ENDPOINT", "")];
        let settings = resolve(&HubOptions::default(), &variables);
        assert_eq!(settings.cache_dir, Path::new("/other"));
        assert_eq!(settings.endpoint, DEFAULT_ENDPOINT);
        assert_eq!(settings.token, None);
    }

    #[derive(serde::Deserialize)]
    struct Case {
        variables: std::collections::BTreeMap<String, String>,
        settings: Golden,
    }

    #[derive(serde::Deserialize)]
    struct Golden {
        cache_dir: PathBuf,
        token: Option<String>,
        endpoint: String,
        offline: bool,
        etag_timeout: u64,
        download_timeout: u64,
        disable_symlinks: bool,
        disable_progress_bars: bool,
    }

    #[test]
    fn variables_mean_what_they_mean_to_huggingface_hub() {
        let json = include_str!("../../../../testdata/hub/settings.json");
        let cases: Vec<Case> = serde_json::from_str(json).unwrap();
        assert!(cases.len() > 40);
        for Case { variables, settings: golden } in cases {
            let ours = Settings::resolve(&HubOptions::default(), &|name| match name {
                "HOME" => Some("/home/me".to_owned()),
                _ => variables.get(name).cloned(),
            });
            assert_eq!(ours.cache_dir, golden.cache_dir, "{variables:?}");
            assert_eq!(ours.token, golden.token, "{variables:?}");
            assert_eq!(ours.endpoint, golden.endpoint, "{variables:?}");
            assert_eq!(ours.offline, golden.offline, "{variables:?}");
            assert_eq!(ours.etag_timeout.as_secs(), golden.etag_timeout, "{variables:?}");
            let seconds = match golden.download_timeout {
                10 => DOWNLOAD_SECONDS, // the default is another one
                seconds => seconds,
            };
            assert_eq!(ours.download_timeout.as_secs(), seconds, "{variables:?}");
            assert_eq!(ours.symlinks, !golden.disable_symlinks, "{variables:?}");
            assert_eq!(ours.shows_progress, !golden.disable_progress_bars, "{variables:?}");
        }
    }

    #[test]
    fn the_first_variable_that_names_certificates_counts() {
        let all = [
            ("CURL_CA_BUNDLE", "/curl.pem"),
            ("REQUESTS_CA_BUNDLE", "/requests.pem"),
            ("SSL_CERT_DIR", "/certificates"),
            ("SSL_CERT_FILE", "/own.pem"),
        ];
        for count in 1..=all.len() {
            let settings = resolve(&HubOptions::default(), &all[..count]);
            let (name, path) = all[count - 1];
            assert_eq!(settings.certificates, Some((name, PathBuf::from(path))));
        }
        assert_eq!(resolve(&HubOptions::default(), &[]).certificates, None);
    }

    #[test]
    fn seconds_that_are_no_number_leave_the_default() {
        for text in ["soon", "-1", "1.5"] {
            let settings = resolve(&HubOptions::default(), &[("HF_HUB_ETAG_TIMEOUT", text)]);
            assert_eq!(settings.etag_timeout.as_secs(), ETAG_SECONDS, "{text}");
        }
    }
}
