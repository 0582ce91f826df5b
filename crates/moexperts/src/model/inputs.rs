//! What a forward reads that is neither weights nor cached.

use moexperts_core::Device;

use super::{
    Input, LogitsRows,
    rope::{Angles, Rope},
};
use crate::error::Result;

/// The inputs of one forward on a device; room is kept from one forward to the next.
#[derive(Debug)]
pub(crate) struct Inputs<D: Device> {
    /// Cosines and sines of every token, [T, head_dim / 2].
    pub(crate) angles: [D::Tensor; 2],
    host_angles: Angles,
    logits: LogitsRows,
    last: Vec<usize>,
}

impl<D: Device> Default for Inputs<D> {
    fn default() -> Self {
        Self {
            angles: Default::default(),
            host_angles: Angles::default(),
            logits: LogitsRows::All,
            last: Vec::new(),
        }
    }
}

impl<D: Device> Inputs<D> {
    /// Brings those of a batch to the device.
    ///
    /// # Errors
    /// If there are not as many positions as tokens, or the device has no room.
    pub(super) fn prepare(
        &mut self,
        device: &D,
        rope: &Rope,
        &Input { batch, positions, logits, .. }: &Input<'_, D>,
    ) -> Result<()> {
        let tokens = batch.tokens();
        if positions.len() != tokens {
            return Err(moexperts_core::Error::Shape {
                what: "positions".into(),
                expected: format!("[{tokens}]"),
                got: format!("[{}]", positions.len()),
            }
            .into());
        }
        rope.angles(batch, positions, &mut self.host_angles);
        let [cos, sin] = &mut self.angles;
        let pairs = rope.head_dim / 2;
        device.load_tensor(tokens, pairs, &self.host_angles.cos, cos)?;
        device.load_tensor(tokens, pairs, &self.host_angles.sin, sin)?;
        self.logits = logits;
        self.last.clear();
        let spans = batch.rows().filter(|(span, _)| span.tokens > 0);
        self.last.extend(spans.map(|(_, rows)| rows.end - 1));
        Ok(())
    }

    /// The rows logits are wanted of, `None` for all.
    pub(crate) fn logits_rows(&self) -> Option<&[usize]> {
        match self.logits {
            LogitsRows::All => None,
            LogitsRows::LastOfSpan => Some(&self.last),
        }
    }
}
