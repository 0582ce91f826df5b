//! What layers keep of sequences between forwards.

/// What one layer keeps of each sequence between forwards.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StateSpec {
    /// Keys and values of attention.
    Kv {
        /// Key/value heads.
        kv_heads: usize,
        /// Width of a head of a query and of a key.
        head_dim: usize,
        /// Width of a head of a value.
        value_dim: usize,
        /// If set, a token sees at most itself and the `window - 1` before it, and what no later
        /// token sees may be dropped.
        window: Option<usize>,
    },
    /// Nothing.
    None,
}
