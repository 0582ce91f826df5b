//! Attention: `causal` over cached keys and values, `full` within a segment.

mod causal;
mod full;

pub use causal::KvCache;
pub(crate) use causal::causal;
pub(crate) use full::full;
