//! Runs the built program on the tiny model of `testdata` and reads what it writes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bench;
mod bench_sweep;
mod chat;
mod compile;
mod conversation;
mod device;
mod embedded;
mod errors;
mod generate;
mod inspect;
mod logits;
mod own_backend;
mod program;
