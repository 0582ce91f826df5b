//! The GPU as a [`Device`](moexperts_core::Device): a file for each of its four traits.

mod execution;
mod memory;
mod operations;
mod tuning;
