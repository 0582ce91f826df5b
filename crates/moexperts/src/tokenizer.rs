//! The tokenizer of a model, as its `tokenizer.json` describes it.

use std::{fmt, sync::Arc};

#[cfg(feature = "tokenizer")]
use self::engine::read;
use crate::error::{Error, Result};

#[cfg(feature = "tokenizer")]
mod engine;

/// Text to tokens and back. Clones share it.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    file: String,
    engine: Arc<dyn Engine>,
}

/// What splits and joins text. The one implementation is that of the feature `tokenizer`; without it,
/// a model runs on token ids.
trait Engine: fmt::Debug + Send + Sync {
    fn split(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, String>;
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

    /// The tokens of a text, with those that begin or end one (`<s>`) if `add_special_tokens`.
    ///
    /// Special tokens written out in the text become tokens either way.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer cannot split the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        self.engine.split(text, add_special_tokens).map_err(|problem| self.failed(problem))
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

#[cfg(not(feature = "tokenizer"))]
fn read(file: &str, _bytes: &[u8]) -> Result<Arc<dyn Engine>> {
    Err(Error::not_built(format!("`{file}`"), "tokenizer"))
}

#[cfg(test)]
#[cfg(feature = "tokenizer")]
mod tests;
