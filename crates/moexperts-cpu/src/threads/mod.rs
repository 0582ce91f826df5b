//! The threads a device computes with.

mod host;
mod per_thread;
mod pool;
mod team;

pub use self::host::HostThreads;
pub(crate) use self::{
    per_thread::{PerThread, Workspaces},
    pool::{Grain, Threads},
};
