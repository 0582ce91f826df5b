//! From pixels to rows of a decoder.
//!
//! The seam between the two is [`VisualRows`]: where rows of the decoder's input come from a
//! picture, and what its first layers add there. A decoder knows nothing else of pictures.

mod grid;
mod load;
mod spec;
mod tower;

use moexperts_core::Device;

pub use spec::{VisionSpec, VisionTokens};
pub use tower::VisionTower;

/// What a tower makes of a picture, for R rows of a decoder.
#[derive(Debug)]
pub struct VisualFeatures<D: Device> {
    /// [R, H]: in place of the embeddings of the picture's placeholders.
    pub embeddings: D::Tensor,
    /// [R, H] each: added to the residual stream after the decoder's first layers, in order.
    pub deepstack: Vec<D::Tensor>,
}

/// Features and the rows of a forward they belong to.
#[derive(Debug)]
pub struct VisualRows<D: Device> {
    /// R rows of the forward.
    pub rows: Vec<usize>,
    /// Their features.
    pub features: VisualFeatures<D>,
}
