//! The crate `tokenizers` as the engine of a [`Tokenizer`](super::Tokenizer).

use std::{ops::Range, panic::catch_unwind};

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use super::{Engine, Piece};
use crate::{
    error::{Error, Result},
    json,
};

/// Reads a `tokenizer.json`, without its truncation and padding.
pub(super) fn read(file: &str, bytes: &[u8]) -> Result<tokenizers::Tokenizer> {
    let failed = |problem| Error::Tokenizer { file: file.to_owned(), problem };
    // The crate panics where JSON is broken within a decoder: broken JSON does not reach it.
    let Err(error) = serde_json::from_slice::<IgnoredAny>(bytes) else {
        return parse(bytes).map_err(failed);
    };
    let text = json::text(bytes).map_err(failed)?;
    let value = json::parse(text).map_err(|_| failed(error.to_string()))?;
    parse(value.to_string().as_bytes()).map_err(failed)
}

fn parse(bytes: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    let read = || {
        tokenizers::Tokenizer::from_bytes(bytes).and_then(|mut tokenizer| {
            tokenizer.with_padding(None).with_truncation(None)?;
            Ok(tokenizer)
        })
    };
    match catch_unwind(read) {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(_) => Err("is not a tokenizer that can be read".to_owned()),
    }
}

/// A part of a tokenizer from the JSON that describes it.
pub(super) fn part<T: DeserializeOwned>(json: Value) -> Result<T, String> {
    serde_json::from_value(json).map_err(|error| error.to_string())
}

impl Engine for tokenizers::Tokenizer {
    fn split(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, String> {
        let encoding = self.encode_fast(text, add_special_tokens);
        Ok(encoding.map_err(|error| error.to_string())?.get_ids().to_vec())
    }

    fn pieces(&self, text: &str, add_special_tokens: bool) -> Result<Vec<Piece>, String> {
        let encoding = self.encode(text, add_special_tokens).map_err(|error| error.to_string())?;
        let tokens = encoding.get_ids().iter().zip(encoding.get_tokens());
        let pieces = tokens.zip(encoding.get_offsets()).map(|((&id, token), &(start, end))| {
            Ok(Piece {
                id,
                token: token.clone(),
                text: self.join(&[id], false)?,
                bytes: Range { start, end },
                special: self.is_special(token),
            })
        });
        pieces.collect()
    }

    fn join(&self, tokens: &[u32], skip_special_tokens: bool) -> Result<String, String> {
        let text = self.decode(tokens, skip_special_tokens);
        text.map_err(|error| error.to_string())
    }

    fn token_id(&self, token: &str) -> Option<u32> {
        self.token_to_id(token)
    }

    fn token(&self, id: u32) -> Option<String> {
        self.id_to_token(id)
    }

    fn vocab_size(&self) -> usize {
        self.get_vocab_size(true)
    }

    fn is_special(&self, token: &str) -> bool {
        self.get_added_vocabulary().is_special_token(token)
    }
}
