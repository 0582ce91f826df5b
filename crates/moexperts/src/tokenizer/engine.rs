//! The crate `tokenizers` as the engine of a [`Tokenizer`](super::Tokenizer).

use std::{panic::catch_unwind, sync::Arc};

use serde::de::IgnoredAny;

use super::Engine;
use crate::error::{Error, Result};

/// Reads a `tokenizer.json`, without its truncation and padding.
pub(super) fn read(file: &str, bytes: &[u8]) -> Result<Arc<dyn Engine>> {
    let failed = |problem| Error::Tokenizer { file: file.to_owned(), problem };
    // The crate panics where JSON is broken within a decoder: broken JSON does not reach it.
    serde_json::from_slice::<IgnoredAny>(bytes).map_err(|error| failed(error.to_string()))?;
    let read = || {
        tokenizers::Tokenizer::from_bytes(bytes).and_then(|mut tokenizer| {
            tokenizer.with_padding(None).with_truncation(None)?;
            Ok(tokenizer)
        })
    };
    match catch_unwind(read) {
        Ok(Ok(tokenizer)) => Ok(Arc::new(tokenizer)),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("is not a tokenizer that can be read".to_owned())),
    }
}

impl Engine for tokenizers::Tokenizer {
    fn split(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, String> {
        let encoding = self.encode_fast(text, add_special_tokens);
        Ok(encoding.map_err(|error| error.to_string())?.get_ids().to_vec())
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
