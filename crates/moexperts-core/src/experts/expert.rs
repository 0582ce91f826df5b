//! The projections of one expert.

use crate::weights::Linear;

/// The projections of one expert, gate and up apart.
#[derive(Debug, Clone)]
pub struct Expert<M, V> {
    /// [I, H]; `None` if the experts are not gated.
    pub gate_proj: Option<Linear<M, V>>,
    /// [I, H].
    pub up_proj: Linear<M, V>,
    /// [H, I].
    pub down_proj: Linear<M, V>,
}
