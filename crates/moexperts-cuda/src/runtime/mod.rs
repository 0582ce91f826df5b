//! What operations run on: memory of the GPU, and work that is submitted, recorded and replayed.

pub(crate) mod buffer;
pub(crate) mod memory;
pub(crate) mod replay;
