//! What the files beside `tokenizer.json` say about tokens: roles, added tokens, their flags.
//!
//! The order in which the files count is that of transformers: with `added_tokens_decoder` in
//! `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` are not read; without
//! it, they go before `tokenizer_config.json`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::class::Class;
use crate::{
    config::Config,
    error::{Error, Result},
    files::ModelFiles,
    warnings::Warnings,
};

/// The roles that every tokenizer of transformers knows.
const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

const EXTRA: &str = "extra_special_tokens";
const ADDITIONAL: &str = "additional_special_tokens";
const DECODER: &str = "added_tokens_decoder";

/// A token outside the model's vocabulary, or one that text is split at before all others.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Added {
    pub(crate) content: String,
    #[serde(default)]
    pub(crate) lstrip: bool,
    #[serde(default)]
    pub(crate) rstrip: bool,
    #[serde(default)]
    pub(crate) single_word: bool,
    /// Whether it is looked for in the normalised text; unless said, if it is not special.
    #[serde(default)]
    pub(crate) normalized: Option<bool>,
    #[serde(default)]
    pub(crate) special: bool,
}

impl Added {
    /// A special token without flags.
    pub(crate) fn special(content: impl Into<String>) -> Self {
        let content = content.into();
        let [lstrip, rstrip, single_word, special] = [false, false, false, true];
        Self { content, lstrip, rstrip, single_word, normalized: None, special }
    }

    /// Text, or an object with `content`.
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(content) => Some(Self::special(content)),
            Value::Object(_) => Self::deserialize(value).ok(),
            _ => None,
        }
    }
}

/// The files that speak of tokens.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sources<'a> {
    pub(crate) tokenizer_config: Option<&'a Config>,
    pub(crate) special_tokens_map: Option<&'a Config>,
    pub(crate) added_tokens: Option<&'a Config>,
}

impl<'a> Sources<'a> {
    pub(crate) fn of(files: &'a ModelFiles) -> Self {
        Self {
            tokenizer_config: files.tokenizer_config.as_ref(),
            special_tokens_map: files.special_tokens_map.as_ref(),
            added_tokens: files.added_tokens.as_ref(),
        }
    }
}

/// The tokens that the files name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Declared {
    /// Roles and their tokens: those of [`ROLES`], then those that the files name.
    pub(crate) roles: Vec<(String, Added)>,
    /// Special tokens without a role.
    pub(crate) extra: Vec<Added>,
    /// Added tokens by the id that the files give them.
    pub(crate) added: BTreeMap<u32, Added>,
    /// The file of `added`, where it stands for the added tokens of `tokenizer.json`, too.
    pub(crate) replaces: bool,
}

/// Roles and lists while the files are read; `None` is a role that a file takes away.
#[derive(Default)]
struct Reading {
    standard: BTreeMap<&'static str, Option<Added>>,
    named: Vec<(String, Added)>,
    /// Named in a way that goes before `named`.
    explicit: Vec<(String, Added)>,
    extra: Option<Vec<Added>>,
}

impl Declared {
    /// Reads the files; roles that they do not name are those of the class.
    ///
    /// # Errors
    /// [`Error::Config`] if a token is neither text nor an object with `content`, or the id of an
    /// added token is not a number.
    pub(crate) fn read(
        sources: Sources<'_>,
        class: &Class,
        warnings: &mut Warnings,
    ) -> Result<Self> {
        let mut reading = Reading::default();
        let mut added = None;
        if let Some(config) = sources.tokenizer_config {
            reading.tokenizer_config(config)?;
            added = decoder(config)?;
        }
        let replaces = added.is_some();
        if let Some(map) = sources.special_tokens_map {
            match replaces {
                false => reading.special_tokens_map(map)?,
                true => reading.warn_about_unread(map, warnings)?,
            }
        }
        let mut declared = reading.finish(class);
        match (added, sources.added_tokens) {
            (Some(tokens), file) => {
                declared.added = tokens;
                if let Some(file) = file {
                    warn_about_unlisted(file, &declared.added, warnings);
                }
            }
            (None, Some(file)) => declared.added = declared.added_tokens(file)?,
            (None, None) => {}
        }
        declared.replaces = replaces;
        Ok(declared)
    }

    /// The tokens of `added_tokens.json`; those with a role are special.
    fn added_tokens(&self, file: &Config) -> Result<BTreeMap<u32, Added>> {
        let mut tokens = BTreeMap::new();
        for (content, id) in file.raw() {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| file.refused(content, "a token id"))?;
            let special = self.specials().any(|token| token.content == *content);
            let normalized = Some(!special);
            tokens.insert(id, Added { special, normalized, ..Added::special(content) });
        }
        Ok(tokens)
    }

    /// Every token with a role, then the others, each once.
    pub(crate) fn specials(&self) -> impl Iterator<Item = &Added> {
        let all = || self.roles.iter().map(|(_, token)| token).chain(&self.extra);
        all().enumerate().filter_map(move |(place, token)| {
            let seen = all().take(place).any(|before| before.content == token.content);
            (!seen).then_some(token)
        })
    }

    /// Whether a token has a role.
    #[cfg(feature = "tokenizer")]
    pub(crate) fn has_role(&self, content: &str) -> bool {
        self.roles.iter().any(|(_, token)| token.content == content)
    }

    #[cfg(feature = "tokenizer")]
    pub(crate) fn role(&self, role: &str) -> Option<&str> {
        self.roles.iter().find(|(name, _)| name == role).map(|(_, token)| token.content.as_str())
    }
}

impl Reading {
    fn tokenizer_config(&mut self, file: &Config) -> Result<()> {
        let object = file.raw();
        self.read_roles(file, object)?;
        let given = |key| object.get(key).filter(|value| !is_empty(value));
        let extra = given(EXTRA).map(|value| (EXTRA, value));
        match extra.or_else(|| given(ADDITIONAL).map(|value| (ADDITIONAL, value))) {
            Some((key, Value::Object(named))) => {
                for (role, value) in named {
                    let token = Added::read(value).ok_or_else(|| refused(file, key))?;
                    put(&mut self.explicit, role, token);
                }
            }
            Some((key, Value::Array(tokens))) => self.extra = Some(list(file, key, tokens)?),
            Some((key, _)) => {
                return Err(file.refused(key, "a list of tokens, or an object of named ones"));
            }
            None => {}
        }
        if let (true, Some(Value::Object(named))) =
            (self.explicit.is_empty(), object.get("model_specific_special_tokens"))
        {
            for (role, value) in named {
                let refused = || refused(file, "model_specific_special_tokens");
                put(&mut self.explicit, role, Added::read(value).ok_or_else(refused)?);
            }
        }
        Ok(())
    }

    fn special_tokens_map(&mut self, file: &Config) -> Result<()> {
        let object = file.raw();
        self.read_roles(file, object)?;
        match object.get(EXTRA) {
            Some(Value::Object(named)) => {
                for (role, value) in named {
                    let token = Added::read(value).ok_or_else(|| refused(file, EXTRA))?;
                    put(&mut self.explicit, role, token);
                }
            }
            Some(Value::Array(tokens)) => {
                let extra = self.extra.get_or_insert_default();
                for token in list(file, EXTRA, tokens)? {
                    if !extra.iter().any(|known| known.content == token.content) {
                        extra.push(token);
                    }
                }
            }
            _ => {}
        }
        if let (None, Some(Value::Array(tokens))) = (&self.extra, object.get(ADDITIONAL)) {
            self.extra = Some(list(file, ADDITIONAL, tokens)?);
        }
        Ok(())
    }

    /// The keys that end in `_token`. In `tokenizer_config.json` a name that is not of [`ROLES`] goes
    /// before the same one of the other file.
    fn read_roles(&mut self, file: &Config, object: &Map<String, Value>) -> Result<()> {
        for (key, value) in object {
            match ROLES.iter().find(|role| *role == key) {
                Some(&role) if value.is_null() => {
                    self.standard.insert(role, None);
                }
                Some(&role) => {
                    let token = Added::read(value).ok_or_else(|| refused(file, key))?;
                    self.standard.insert(role, Some(token));
                }
                None if key.ends_with("_token") => {
                    let Some(token) = Added::read(value) else { continue };
                    let first = file.file() == crate::files::TOKENIZER_CONFIG && value.is_string();
                    put(if first { &mut self.explicit } else { &mut self.named }, key, token);
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Names what differs in `special_tokens_map.json`, which does not count here.
    fn warn_about_unread(&self, map: &Config, warnings: &mut Warnings) -> Result<()> {
        let (mut unread, mut read) = (Self::default(), Self::default());
        unread.special_tokens_map(map)?;
        read.standard.extend(self.standard.iter().map(|(role, token)| (*role, token.clone())));
        for (role, token) in unread.standard {
            let Some(token) = token else { continue };
            let known = read.standard.get(role).and_then(Option::as_ref);
            if known.is_none_or(|known| known.content != token.content) {
                warnings.push(format_args!(
                    "{}: `{role}` is `{}`, which does not count: `{DECODER}` of \
                     tokenizer_config.json goes first, and `{role}` is {} there",
                    map.file(),
                    token.content,
                    known.map_or("not set".to_owned(), |known| format!("`{}`", known.content)),
                ));
            }
        }
        Ok(())
    }

    fn finish(self, class: &Class) -> Declared {
        let mut roles = Vec::new();
        for role in ROLES {
            let token = match self.standard.get(role) {
                Some(token) => token.clone(),
                None => class.default_role(role).map(Added::special),
            };
            roles.extend(token.map(|token| (role.to_owned(), token)));
        }
        let mut named = self.named;
        for (role, token) in self.explicit {
            put(&mut named, &role, token);
        }
        roles.extend(named);
        Declared { roles, extra: self.extra.unwrap_or_default(), ..Declared::default() }
    }
}

/// `added_tokens_decoder` of `tokenizer_config.json`, if it is there.
fn decoder(file: &Config) -> Result<Option<BTreeMap<u32, Added>>> {
    let expected = "an object of token ids and objects with `content`";
    let tokens = match file.raw().get(DECODER) {
        None => return Ok(None),
        Some(Value::Object(tokens)) => tokens,
        Some(_) => return Err(file.refused(DECODER, expected)),
    };
    let mut decoder = BTreeMap::new();
    for (id, token) in tokens {
        let id = id.trim().parse().ok();
        let token = token.is_object().then(|| Added::read(token)).flatten();
        let (Some(id), Some(token)) = (id, token) else {
            return Err(file.refused(DECODER, expected));
        };
        decoder.insert(id, token);
    }
    Ok(Some(decoder))
}

/// Names the tokens of `added_tokens.json` that `added_tokens_decoder`, which counts, does not list.
fn warn_about_unlisted(file: &Config, listed: &BTreeMap<u32, Added>, warnings: &mut Warnings) {
    for token in file.raw().keys() {
        if !listed.values().any(|known| known.content == *token) {
            warnings.push(format_args!(
                "{}: `{token}` does not count: `{DECODER}` of tokenizer_config.json goes first and \
                 does not list it",
                file.file()
            ));
        }
    }
}

fn list(file: &Config, key: &str, tokens: &[Value]) -> Result<Vec<Added>> {
    let tokens = tokens.iter().map(Added::read).collect::<Option<_>>();
    tokens.ok_or_else(|| refused(file, key))
}

/// Sets a role; one that is there keeps its place.
fn put(roles: &mut Vec<(String, Added)>, role: &str, token: Added) {
    match roles.iter_mut().find(|(known, _)| known == role) {
        Some((_, known)) => *known = token,
        None => roles.push((role.to_owned(), token)),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn refused(file: &Config, key: &str) -> Error {
    file.refused(key, "text or an object with `content`")
}
