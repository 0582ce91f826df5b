//! Everything that needs more than one module: models from files, text from models.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod backends;
mod checks;
mod common;
mod compile;
mod compile_matrix;
mod contradictions;
#[cfg(feature = "cuda")]
mod cuda;
mod dialects;
mod experts_golden;
mod features;
mod generation;
mod golden;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod hub_files;
#[cfg(feature = "hub")]
mod hub_server;
mod inventory;
mod malformed_checkpoint;
mod malformed_model;
mod memory;
#[cfg(all(feature = "chat-template", feature = "images", feature = "tokenizer"))]
mod multimodal;
#[cfg(all(feature = "images", feature = "tokenizer"))]
mod multimodal_files;
#[cfg(feature = "tokenizer")]
mod perplexity;
mod pictures;
mod sessions;
mod strangers;
mod switching;
mod wrapped_device;
