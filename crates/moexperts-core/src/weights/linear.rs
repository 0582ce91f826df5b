//! A projection as a model has it.

/// A projection: `weight` [out, in] and an optional `bias` `[out]`.
#[derive(Debug, Clone)]
pub struct Linear<M, V> {
    /// [out, in].
    pub weight: M,
    /// `[out]`, in f32.
    pub bias: Option<V>,
}
