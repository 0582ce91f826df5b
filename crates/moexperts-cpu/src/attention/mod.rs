//! Attention: `causal` over the keys and values that `kv` keeps, `full` within a segment.

mod causal;
mod full;
mod kv;

pub(crate) use causal::causal;
pub(crate) use full::full;
pub(crate) use kv::{HeadDims, KvState};
