//! The tokenizer of a model, as its `tokenizer.json` describes it.

use crate::error::{Error, Result};

/// Text to tokens and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    file: String,
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`; `file` names it in errors.
    ///
    /// Truncation and padding that the file asks for are off: they belong to the training of the
    /// model and would cut prompts.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the bytes are not a tokenizer.
    pub fn from_bytes(file: impl Into<String>, bytes: &[u8]) -> Result<Self> {
        let file = file.into();
        let read = tokenizers::Tokenizer::from_bytes(bytes).and_then(|mut inner| {
            inner.with_padding(None).with_truncation(None)?;
            Ok(inner)
        });
        match read {
            Ok(inner) => Ok(Self { file, inner }),
            Err(error) => Err(Error::Tokenizer { file, problem: error.to_string() }),
        }
    }

    /// The tokens of a text, with those that begin or end one (`<s>`) if asked for.
    ///
    /// Special tokens written out in the text become tokens either way.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer cannot split the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, add_special_tokens);
        Ok(encoding.map_err(|error| self.failed(&error))?.get_ids().to_vec())
    }

    /// The text of tokens; ids that are no token are left out, special tokens if asked for.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer cannot join them.
    pub fn decode(&self, tokens: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.inner.decode(tokens, skip_special_tokens).map_err(|error| self.failed(&error))
    }

    /// The id of a token written as in the vocabulary: `<|im_end|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A token as written in the vocabulary, if there is one of this id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Number of tokens, added ones included.
    ///
    /// A model may have more logits: their number is often rounded up.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether the id is a token and not a special one.
    pub(crate) fn has_text(&self, token: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        self.inner.id_to_token(token).is_some_and(|content| !added.is_special_token(&content))
    }

    fn failed(&self, error: &tokenizers::Error) -> Error {
        Error::Tokenizer { file: self.file.clone(), problem: error.to_string() }
    }
}

#[cfg(test)]
mod tests;
