//! Values of a forward, shown on the way.

use moexperts_core::Device;

/// A value of a decoder's forward, shown to an observer.
#[derive(Debug)]
pub enum Stage<'a, D: Device> {
    /// [T, E]: what the router's linear layer gives.
    RouterLogits(&'a D::Tensor),
    /// `top_k_index` [T, K] and `top_k_weights` [T, K].
    Routing(&'a D::Routing),
    /// [T, H]: the weighted sum of the routed experts.
    ExpertsOutput(&'a D::Tensor),
    /// [T, H]: the residual stream after the block, before pictures add to it.
    BlockOutput(&'a D::Tensor),
}

/// Sees every stage of every layer; the index is the layer's.
pub type Observer<'a, D> = &'a mut (dyn FnMut(usize, Stage<'_, D>) + Send);

/// A [`Stage`] without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StageKind {
    RouterLogits,
    Routing,
    ExpertsOutput,
    BlockOutput,
}

impl StageKind {
    /// The stage of a value, which lies in one of the two lists of a workspace.
    pub(super) fn of<'a, D: Device>(
        self,
        place: usize,
        tensors: &'a [D::Tensor],
        routings: &'a [D::Routing],
    ) -> Stage<'a, D> {
        match self {
            Self::RouterLogits => Stage::RouterLogits(&tensors[place]),
            Self::Routing => Stage::Routing(&routings[place]),
            Self::ExpertsOutput => Stage::ExpertsOutput(&tensors[place]),
            Self::BlockOutput => Stage::BlockOutput(&tensors[place]),
        }
    }
}
