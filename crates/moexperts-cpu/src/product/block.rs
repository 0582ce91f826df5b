//! A block: some weight rows times some panels, or some rows.

use super::panel::PANEL;
use crate::tuning::{MAX_BLOCK_OUTPUTS, MAX_BLOCK_PANELS};

/// A buffer for the results of one block, in either form.
#[derive(Debug)]
pub(crate) struct BlockResults(pub(crate) Vec<f32>);

impl Default for BlockResults {
    fn default() -> Self {
        Self(vec![0.0; MAX_BLOCK_OUTPUTS * MAX_BLOCK_PANELS * PANEL])
    }
}
