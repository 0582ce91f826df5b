//! Everything that needs more than one module: models from files, text from models.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod backends;
mod checks;
mod common;
mod compile;
mod compile_matrix;
mod dialects;
mod experts_golden;
mod generation;
mod golden;
mod hub;
mod hub_server;
mod inventory;
mod malformed_checkpoint;
mod malformed_model;
mod memory;
mod multimodal;
mod multimodal_files;
mod perplexity;
mod pictures;
mod strangers;
mod switching;
mod wrapped_device;
