//! Who is told how long work goes on.

/// Hears of files that are downloaded (not of those in the cache) and of weights that are converted
/// while a model is loaded, on the thread that loads it. `()` ignores it all.
pub trait Progress: Send + Sync {
    /// Work over `bytes` in all begins; `what` is a file or a kind of weights.
    fn start(&self, what: &str, bytes: u64);
    /// `bytes` more are done; for a continued download the first call is the part on disk.
    fn advance(&self, what: &str, bytes: u64);
    /// All is done. Not called if it fails.
    fn finish(&self, what: &str);
}

impl Progress for () {
    fn start(&self, _what: &str, _bytes: u64) {}
    fn advance(&self, _what: &str, _bytes: u64) {}
    fn finish(&self, _what: &str) {}
}
