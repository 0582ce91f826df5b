//! Threads of a host.

use std::fmt;

/// Threads that a host keeps and lends: those of an OpenMP runtime, say.
pub trait HostThreads: fmt::Debug + Send + Sync {
    /// Calls `work` on `threads` threads at the same time, or on fewer, one of which must be the
    /// calling thread, and returns when all calls have. `work` does not panic.
    fn together(&self, threads: usize, work: &(dyn Fn() + Sync));
}
