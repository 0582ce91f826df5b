//! What a decoder's forward reads beside weights and state, on the device.

use moexperts_core::{Batch, Device};

use crate::{
    blocks::{Angles, Position, Rope},
    error::Result,
    graph::VisualRows,
};

/// Which rows of a batch get logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogitsRows {
    /// Every token.
    All,
    /// The last token of each span.
    LastOfSpan,
}

/// What a forward reads.
#[derive(Debug)]
pub struct Input<'a, D: Device> {
    /// Token ids `[T]`.
    pub ids: &'a [u32],
    /// Which sequence each token is of, and which place it has there.
    pub batch: &'a Batch,
    /// Where each token stands `[T]`.
    pub positions: &'a [Position],
    /// The rows that come from pictures.
    pub visuals: &'a [VisualRows<D>],
    /// The tokens whose logits are computed.
    pub logits: LogitsRows,
}

/// What follows from an input, on the device; memory is kept from one forward to the next.
#[derive(Debug)]
pub(super) struct Inputs<D: Device> {
    /// Cosines and sines of every token, [T, dims / 2], for each rotary embedding.
    pub(super) angles: Vec<[D::Tensor; 2]>,
    host_angles: Vec<Angles>,
    /// The rows whose logits are computed.
    pub(super) logits_rows: Vec<usize>,
}

impl<D: Device> Default for Inputs<D> {
    fn default() -> Self {
        Self { angles: Vec::new(), host_angles: Vec::new(), logits_rows: Vec::new() }
    }
}

impl<D: Device> Inputs<D> {
    /// Brings those of a batch to the device.
    ///
    /// # Errors
    /// If there are not as many positions as tokens, or the device is out of memory.
    pub(super) fn prepare(
        &mut self,
        device: &D,
        ropes: &[Rope],
        &Input { batch, positions, logits, .. }: &Input<'_, D>,
    ) -> Result<()> {
        let tokens = batch.tokens();
        if positions.len() != tokens {
            return Err(moexperts_core::Error::count("positions", tokens, positions.len()).into());
        }
        self.angles.resize_with(ropes.len(), Default::default);
        self.host_angles.resize_with(ropes.len(), Angles::default);
        for (rope, (host, [cos, sin])) in
            ropes.iter().zip(self.host_angles.iter_mut().zip(&mut self.angles))
        {
            rope.angles(batch, positions, host);
            let pairs = rope.dims / 2;
            device.load_tensor(tokens, pairs, &host.cos, cos)?;
            device.load_tensor(tokens, pairs, &host.sin, sin)?;
        }
        self.logits_rows.clear();
        match logits {
            LogitsRows::All => self.logits_rows.extend(0..tokens),
            LogitsRows::LastOfSpan => {
                let spans = batch.rows().filter(|(span, _)| span.tokens > 0);
                self.logits_rows.extend(spans.map(|(_, rows)| rows.end - 1));
            }
        }
        Ok(())
    }
}
