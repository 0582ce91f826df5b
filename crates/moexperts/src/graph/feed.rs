//! What a forward reads beside weights, and its arguments.

use std::fmt;

use moexperts_core::{Batch, Device, ExpertsBackend, Scratch};

use super::{observe::Observer, values::RowCounts};

/// Features of a picture and the rows of a forward they belong to.
#[derive(Debug)]
pub struct VisualRows<D: Device> {
    /// R rows of the forward.
    pub rows: Vec<usize>,
    /// Their features.
    pub features: VisualFeatures<D>,
}

/// What a vision tower makes of a picture, for R rows of a decoder.
#[derive(Debug)]
pub struct VisualFeatures<D: Device> {
    /// [R, H]: in place of the embeddings of the picture's placeholders.
    pub embeddings: D::Tensor,
    /// [R, H] each: added to the residual stream after the decoder's first layers, in order.
    pub deepstack: Vec<D::Tensor>,
}

/// A picture as a vision tower reads it: T patches, frame by frame.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pixels<'a> {
    /// [T, values of a patch].
    pub(crate) values: &'a [f32],
    /// Rows of the position table and their weights, [T, taps] each.
    pub(crate) rows: &'a [u32],
    pub(crate) weights: &'a [f32],
    pub(crate) taps: usize,
    /// Patches of each frame: a patch sees its own.
    pub(crate) frames: &'a [usize],
}

/// The values of a graph's symbols in one forward.
#[derive(Debug)]
pub(crate) struct Feed<'a, D: Device> {
    /// Which sequence each row is of, and which place it has there.
    pub(crate) batch: &'a Batch,
    /// Token ids `[T]`.
    pub(crate) ids: &'a [u32],
    /// Rows that come from pictures.
    pub(crate) visuals: &'a [VisualRows<D>],
    /// The rows whose logits are computed.
    pub(crate) logits_rows: &'a [usize],
    /// Cosines and sines [T, dims / 2] of each rotary embedding.
    pub(crate) angles: &'a [[D::Tensor; 2]],
    pub(crate) pixels: Pixels<'a>,
}

impl<D: Device> Feed<'_, D> {
    pub(crate) fn counts(&self) -> RowCounts {
        RowCounts { tokens: self.batch.tokens(), logits: self.logits_rows.len() }
    }
}

/// The arguments of one run of a program.
pub(crate) struct Run<'a, D: Device> {
    pub(crate) feed: Feed<'a, D>,
    /// What the layers keep; `None` where no operation keeps anything.
    pub(crate) state: Option<&'a mut D::State>,
    pub(crate) scratch: &'a mut Scratch,
    /// What executes the routed experts; `None` where there are none.
    pub(crate) experts: Option<&'a dyn ExpertsBackend<D::Experts>>,
    pub(crate) observer: Option<Observer<'a, D>>,
}

impl<D: Device> fmt::Debug for Run<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("feed", &self.feed)
            .field("experts", &self.experts)
            .finish_non_exhaustive()
    }
}
