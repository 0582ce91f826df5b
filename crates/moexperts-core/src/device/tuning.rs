//! Settings of a device's kernels, and which kernel they choose.

use crate::{Memory, error::Result};

/// A setting of a device's kernels whose best value depends on the machine and the shapes.
///
/// What it is set to changes how fast an operation is, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knob {
    /// What reports and the cache of measurements call it.
    pub name: &'static str,
    /// What it can be set to.
    pub values: &'static [usize],
    /// The value it has if it is not set; one of `values`.
    pub default: usize,
    /// For which operations it matters.
    pub rows: Rows,
}

/// How many rows an operation has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// So few that weights pass through dot products.
    Few,
    /// Enough to fill panels of them.
    Many,
    /// Any number.
    Any,
}

/// What autotuning reads and sets.
pub trait Tuning: Memory {
    /// The settings of the device's kernels that [`with_knob`](Self::with_knob) turns: what
    /// autotuning tries.
    fn knobs(&self) -> &'static [Knob];

    /// The same device with knob `index` at a value, one of its values; results stay within the
    /// tolerance.
    #[must_use]
    fn with_knob(&self, index: usize, value: usize) -> Self;

    /// What the measured settings depend on beside the shapes: the processor, the instruction set,
    /// the threads.
    fn fingerprint(&self) -> String;

    /// The kernel that multiplies `rows` rows with weights like these: `avx2 dot`.
    fn kernel_name(&self, weight: &Self::Matrix, rows: usize) -> String;

    /// A copy of a weight where the device reads it fastest, or `None` if it lies there.
    ///
    /// # Errors
    /// If the device has no memory for it.
    fn resident_copy(&self, weight: &Self::Matrix) -> Result<Option<Self::Matrix>>;
}
