//! Gets a model's files from the Hugging Face hub into the cache that Python's `huggingface_hub` uses.
//!
//! Start at [`fetch()`], which decides which files a model needs and continues broken
//! downloads. `client` speaks HTTP, `cache` knows the folders, `names` refuses what could leave them,
//! `settings` merges options and environment,
//! `certificates` finds whom to trust.
//!
//! The `hf-hub` crate is not used: 1.0 cannot continue a download, 0.5 fails on files behind the
//! hub's content network, and 0.4 and 0.5 append a whole file to a part when a server ignores a
//! range.
//!
//! Invariant: a blob has the size the hub announced, and a snapshot links only to whole blobs.

mod cache;
mod certificates;
mod client;
mod error;
mod fetch;
mod names;
mod settings;
mod variables;

pub use self::{error::HubError, fetch::fetch, settings::HubOptions, variables::VARIABLES};
