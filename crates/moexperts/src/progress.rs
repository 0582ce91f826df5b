//! How far long work has come.

/// Receives the progress of downloads (files in the cache are not reported), of weights that are
/// converted or brought to a GPU while a model is loaded, and of measurements while it is compiled.
/// Called on the thread that does the work. `()` ignores all reports.
pub trait Progress: Send + Sync {
    /// Work begins; `what` is a file, a kind of weights, or `autotuning`.
    fn start(&self, what: &str, amount: Amount);
    /// `done` more bytes or steps are done; for a continued download the first call is the part on
    /// disk.
    fn advance(&self, what: &str, done: u64);
    /// All work is done. Not called if it fails.
    fn finish(&self, what: &str);
}

/// How much there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Amount {
    /// Bytes.
    Bytes(u64),
    /// Steps that take about as long each.
    Steps(u64),
}

impl Progress for () {
    fn start(&self, _what: &str, _amount: Amount) {}
    fn advance(&self, _what: &str, _done: u64) {}
    fn finish(&self, _what: &str) {}
}
