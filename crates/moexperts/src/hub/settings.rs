//! The options with the environment filled in.

use std::fs;
use std::path::PathBuf;

use super::HubOptions;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

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
        Self::resolve(options, &|name| std::env::var(name).ok())
    }

    /// `variable` looks a variable up; an empty one counts as unset.
    fn resolve(options: &HubOptions, variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let home = variable("HF_HOME").map_or_else(
            || {
                let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
                let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache")));
                cache.unwrap_or_else(std::env::temp_dir).join("huggingface")
            },
            PathBuf::from,
        );
        let token = options.token.clone().or_else(|| variable("HF_TOKEN")).or_else(|| {
            let file = variable("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
            fs::read_to_string(file).ok()
        });
        let cache_dir = options.cache_dir.clone();
        let cache_dir = cache_dir.or_else(|| variable("HF_HUB_CACHE").map(PathBuf::from));
        let endpoint = options.endpoint.clone().or_else(|| variable("HF_ENDPOINT"));
        let endpoint = endpoint.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        Self {
            revision: options.revision.clone().unwrap_or_else(|| "main".to_owned()),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            cache_dir: cache_dir.unwrap_or_else(|| home.join("hub")),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            offline: options.offline || variable("HF_HUB_OFFLINE").is_some_and(|v| is_true(&v)),
        }
    }
}

// The values huggingface_hub takes for true.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.trim().to_ascii_uppercase().as_str())
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
}
