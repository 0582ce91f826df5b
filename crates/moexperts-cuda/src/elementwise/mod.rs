//! Operations on values and rows: sums, gates, activations, norms, rotary embeddings, gathers.

pub(crate) mod activation;
pub(crate) mod norm;
pub(crate) mod rope;
pub(crate) mod rows;
pub(crate) mod values;
