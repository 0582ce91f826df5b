//! The model that is part of the program.

use std::sync::Arc;

use moexperts::files::{EmbeddedFiles, ModelFiles, StaticBytes};

/// Its name, for messages.
const NAME: &str = "rust-book-moe (in the program)";

/// Weights are used where they lie, so they lie at a multiple of a cache line.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

macro_rules! path {
    ($file:literal) => {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/rust-book-moe/", $file)
    };
}

static WEIGHTS: &Aligned<[u8]> = &Aligned(*include_bytes!(path!("model.safetensors")));

/// Opens it.
pub(crate) fn files() -> Result<ModelFiles, moexperts::Error> {
    ModelFiles::from_parts(EmbeddedFiles {
        origin: NAME,
        config: include_str!(path!("config.json")),
        generation_config: Some(include_str!(path!("generation_config.json"))),
        tokenizer: Some(include_bytes!(path!("tokenizer.json"))),
        tokenizer_config: Some(include_str!(path!("tokenizer_config.json"))),
        chat_template: None,
        safetensors: Arc::new(StaticBytes::new(&WEIGHTS.0)),
    })
}
