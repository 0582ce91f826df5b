//! The tokens that a model's files give a role: `bos_token`, `eos_token` and the others.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{config::Config, error::Result, warnings::Warnings};

/// The roles that have a name in the files.
const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The text of each special token by its role, as templates see them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens(BTreeMap<String, String>);

/// A special token as the files write it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "invalid type, expected text or an object with `content`")]
enum Written {
    Text(String),
    Added { content: String },
}

impl SpecialTokens {
    /// Reads `special_tokens_map.json` and `tokenizer_config.json`, which goes first.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if a token is neither text nor an object with
    /// `content`.
    pub fn read(
        tokenizer_config: Option<&Config>,
        special_tokens_map: Option<&Config>,
        _warnings: &mut Warnings,
    ) -> Result<Self> {
        let mut tokens = BTreeMap::new();
        for file in [special_tokens_map, tokenizer_config].into_iter().flatten() {
            for role in ROLES {
                if let Some(Written::Text(text) | Written::Added { content: text }) =
                    file.optional(role)?
                {
                    tokens.insert(role.to_owned(), text);
                }
            }
        }
        Ok(Self(tokens))
    }

    /// Role and text of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(role, text)| (role.as_str(), text.as_str()))
    }

    /// The text of a role.
    pub fn get(&self, role: &str) -> Option<&str> {
        self.0.get(role).map(String::as_str)
    }
}
