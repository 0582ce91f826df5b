//! What the blocks of a decoder have in common.

/// What every block of a decoder is built with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context {
    /// H: width of the residual stream.
    pub(crate) hidden_size: usize,
    /// Added to the mean square in every norm.
    pub(crate) rms_norm_eps: f32,
}
