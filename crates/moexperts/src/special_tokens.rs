//! The tokens that a model's files give a role: `bos_token`, `eos_token` and the others.

use std::collections::BTreeMap;

use crate::{
    config::Config,
    error::Result,
    files::ModelFiles,
    tokenizer::{
        Class,
        declared::{Declared, Sources},
    },
    warnings::Warnings,
};

/// The text of each special token by its role, as templates see them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens(BTreeMap<String, String>);

impl SpecialTokens {
    /// Reads the roles that `tokenizer_config.json` and `special_tokens_map.json` give, those of a
    /// model (`image_token`) included.
    ///
    /// The map goes first, but does not count if `tokenizer_config.json` has `added_tokens_decoder`;
    /// what it says differently is then named in `warnings`.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if a token is neither text nor an object with
    /// `content`.
    pub fn read(
        tokenizer_config: Option<&Config>,
        special_tokens_map: Option<&Config>,
        warnings: &mut Warnings,
    ) -> Result<Self> {
        let sources = Sources { tokenizer_config, special_tokens_map, added_tokens: None };
        Declared::read(sources, &Class::default(), warnings).map(Self::from)
    }

    /// Those of a model, with the roles that its class of tokenizers has by default.
    ///
    /// Reading the tokenizer gives the warnings.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn of(files: &ModelFiles) -> Result<Self> {
        let mut warnings = Warnings::default();
        let class = Class::of(files, &mut warnings)?;
        Declared::read(Sources::of(files), &class, &mut warnings).map(Self::from)
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

impl From<Declared> for SpecialTokens {
    fn from(declared: Declared) -> Self {
        let roles = declared.roles.into_iter();
        Self(roles.map(|(role, token)| (role, token.content)).collect())
    }
}
