//! The options, and the environment that fills what they leave open.

use std::{ffi::OsString, fmt, fs, path::PathBuf};

use moexperts_core::Variable;

use crate::disk;

/// The environment variables that downloads read, by the names that `huggingface_hub` gave them.
pub const VARIABLES: &[Variable] = &[
    HF_HOME,
    HF_HUB_CACHE,
    HF_ENDPOINT,
    HF_TOKEN,
    HF_TOKEN_PATH,
    HF_HUB_OFFLINE,
    disk::XDG_CACHE_HOME,
    disk::HOME,
];

const HF_HOME: Variable =
    Variable::new("HF_HOME", "folder of the hub's cache and token; ~/.cache/huggingface");
const HF_HUB_CACHE: Variable =
    Variable::new("HF_HUB_CACHE", "folder of downloaded models; hub in HF_HOME");
const HF_ENDPOINT: Variable =
    Variable::new("HF_ENDPOINT", "address of the hub; https://huggingface.co");
const HF_TOKEN: Variable =
    Variable::new("HF_TOKEN", "access token for private and gated models").secret();
const HF_TOKEN_PATH: Variable =
    Variable::new("HF_TOKEN_PATH", "file with the access token; token in HF_HOME");
const HF_HUB_OFFLINE: Variable =
    Variable::new("HF_HUB_OFFLINE", "1 uses the cache alone and never the network");

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
}

impl Settings {
    pub(super) fn from_environment(options: &HubOptions) -> Self {
        Self::resolve(options, &|variable| variable.get().and_then(as_text))
    }

    /// - `read`: reads a variable; an empty one counts as unset
    fn resolve(options: &HubOptions, read: &dyn Fn(Variable) -> Option<String>) -> Self {
        let variable = |variable| read(variable).filter(|value| !value.trim().is_empty());
        let home = variable(HF_HOME).map_or_else(
            || disk::cache_folder().unwrap_or_else(std::env::temp_dir).join("huggingface"),
            PathBuf::from,
        );
        let token = options.token.clone().or_else(|| variable(HF_TOKEN)).or_else(|| {
            let file = variable(HF_TOKEN_PATH).map_or_else(|| home.join("token"), PathBuf::from);
            fs::read_to_string(file).ok()
        });
        let cache_dir = options.cache_dir.clone();
        let cache_dir = cache_dir.or_else(|| variable(HF_HUB_CACHE).map(PathBuf::from));
        let endpoint = options.endpoint.clone().or_else(|| variable(HF_ENDPOINT));
        let endpoint = endpoint.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        Self {
            revision: options.revision.clone().unwrap_or_else(|| "main".to_owned()),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            cache_dir: cache_dir.unwrap_or_else(|| home.join("hub")),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            offline: options.offline || variable(HF_HUB_OFFLINE).is_some_and(|v| is_true(&v)),
        }
    }
}

fn as_text(value: OsString) -> Option<String> {
    value.into_string().ok()
}

/// The values that huggingface_hub takes for true.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.trim().to_ascii_uppercase().as_str())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn resolve(options: &HubOptions, variables: &[(&str, &str)]) -> Settings {
        Settings::resolve(options, &|variable| {
            let found = variables.iter().find(|(key, _)| *key == variable.name);
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
}
