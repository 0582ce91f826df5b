//! The tokenizer of a model, as its files describe it.

use std::{fmt, ops::Range, sync::Arc};

use crate::{
    error::{Error, Result},
    files::ModelFiles,
    warnings::Warnings,
};

mod class;
pub(crate) mod declared;
#[cfg(feature = "tokenizer")]
mod engine;
#[cfg(feature = "tokenizer")]
mod from_files;

pub(crate) use class::Class;

/// Text to tokens and back. Clones share it.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    file: String,
    engine: Arc<dyn Engine>,
}

/// A token of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Piece {
    /// Its id.
    pub id: u32,
    /// As it is written in the vocabulary: `Ġworld`.
    pub token: String,
    /// What it alone decodes to: ` world`; U+FFFD for a part of a character.
    pub text: String,
    /// The bytes of the text that it stands for; tokens that share a character share its bytes, one
    /// that was added around the text has none.
    pub bytes: Range<usize>,
    /// Whether it is a special token.
    pub special: bool,
}

/// What splits and joins text. The one implementation is that of the feature `tokenizer`; without it,
/// a model runs on token ids.
trait Engine: fmt::Debug + Send + Sync {
    fn split(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, String>;
    fn pieces(&self, text: &str, add_special_tokens: bool) -> Result<Vec<Piece>, String>;
    fn join(&self, tokens: &[u32], skip_special_tokens: bool) -> Result<String, String>;
    fn token_id(&self, token: &str) -> Option<u32>;
    fn token(&self, id: u32) -> Option<String>;
    fn vocab_size(&self) -> usize;
    fn is_special(&self, token: &str) -> bool;
}

impl Tokenizer {
    /// Reads a `tokenizer.json`; `file` names it in errors.
    ///
    /// Truncation and padding of the file are off: they belong to the training of the model and
    /// would cut prompts.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the bytes are not a tokenizer; [`Error::NotBuilt`] without the feature
    /// `tokenizer`.
    pub fn from_bytes(file: impl Into<String>, bytes: &[u8]) -> Result<Self> {
        let file = file.into();
        Ok(Self { engine: read(&file, bytes)?, file })
    }

    /// Reads a model's tokenizer as `AutoTokenizer` of transformers does: `tokenizer.json`, or
    /// `vocab.json` and `merges.txt`, with the tokens, roles and flags of `tokenizer_config.json`,
    /// `special_tokens_map.json` and `added_tokens.json`. `None` if the model has no file of one.
    ///
    /// What is not obeyed and what the files contradict each other in goes to `warnings`.
    ///
    /// # Errors
    /// As [`from_bytes`](Self::from_bytes); [`Error::Config`] if a token or its id is not one, and
    /// [`Error::Tokenizer`] if the model has a tokenizer of another format only.
    pub fn read(files: &ModelFiles, warnings: &mut Warnings) -> Result<Option<Self>> {
        read_files(files, warnings)
    }

    /// The tokens of a text, with those that begin or end one (`<s>`) if `add_special_tokens`.
    ///
    /// Special tokens written out in the text become tokens either way.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer cannot split the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        self.engine.split(text, add_special_tokens).map_err(|problem| self.failed(problem))
    }

    /// The tokens of a text as [`encode`](Self::encode) gives them, to show them.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer cannot split the text.
    pub fn pieces(&self, text: &str, add_special_tokens: bool) -> Result<Vec<Piece>> {
        self.engine.pieces(text, add_special_tokens).map_err(|problem| self.failed(problem))
    }

    /// The text of tokens; ids without a token are left out, special tokens if
    /// `skip_special_tokens`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer cannot join them.
    pub fn decode(&self, tokens: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.engine.join(tokens, skip_special_tokens).map_err(|problem| self.failed(problem))
    }

    /// The id of a token written as in the vocabulary: `<|im_end|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.engine.token_id(token)
    }

    /// A token as written in the vocabulary, if there is one of this id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.engine.token(id)
    }

    /// Number of tokens, added ones included.
    ///
    /// A model may have more logits: their number is often rounded up.
    pub fn vocab_size(&self) -> usize {
        self.engine.vocab_size()
    }

    /// Whether the id is a token and not a special one.
    pub(crate) fn has_text(&self, token: u32) -> bool {
        self.engine.token(token).is_some_and(|content| !self.engine.is_special(&content))
    }

    fn failed(&self, problem: String) -> Error {
        Error::Tokenizer { file: self.file.clone(), problem }
    }
}

#[cfg(feature = "tokenizer")]
fn read(file: &str, bytes: &[u8]) -> Result<Arc<dyn Engine>> {
    Ok(Arc::new(engine::read(file, bytes)?))
}

#[cfg(not(feature = "tokenizer"))]
fn read(file: &str, _bytes: &[u8]) -> Result<Arc<dyn Engine>> {
    Err(Error::not_built(format!("`{file}`"), "tokenizer"))
}

#[cfg(feature = "tokenizer")]
fn read_files(files: &ModelFiles, warnings: &mut Warnings) -> Result<Option<Tokenizer>> {
    let tokenizer = from_files::read(files, warnings)?;
    Ok(tokenizer.map(|(file, tokenizer)| Tokenizer { file, engine: Arc::new(tokenizer) }))
}

#[cfg(not(feature = "tokenizer"))]
fn read_files(files: &ModelFiles, _warnings: &mut Warnings) -> Result<Option<Tokenizer>> {
    files
        .tokenizer
        .as_ref()
        .map_or(Ok(None), |bytes| Tokenizer::from_bytes("tokenizer.json", bytes).map(Some))
}

#[cfg(test)]
#[cfg(feature = "tokenizer")]
mod tests;
