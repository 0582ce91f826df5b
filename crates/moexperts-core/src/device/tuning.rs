//! Settings of a device's kernels, and the kernels they choose.

use crate::{device::memory::Memory, error::Result};

/// A setting of a device's kernels whose best value depends on the machine and the shapes.
///
/// It changes the speed of operations; results stay within the tolerance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knob {
    /// The name in reports and in the cache of measurements.
    pub name: &'static str,
    /// The values it can be set to.
    pub values: &'static [usize],
    /// The default, one of `values`.
    pub default: usize,
    /// Which operations it matters for.
    pub rows: Rows,
}

/// Numbers of rows of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// So few that each is multiplied by dot products.
    Few,
    /// Enough to be multiplied in panels of several rows.
    Many,
    /// Any number.
    Any,
}

/// The settings that autotuning tries.
pub trait Tuning: Memory {
    /// The settings of the device's kernels, in the order of [`with_knob`](Self::with_knob).
    fn knobs(&self) -> &'static [Knob];

    /// The same device with knob `index` at a value, one of its values; results stay within the
    /// tolerance.
    #[must_use]
    fn with_knob(&self, index: usize, value: usize) -> Self;

    /// The facts beside the shapes that measured settings depend on: the processor, the instruction
    /// set, the threads.
    fn fingerprint(&self) -> String;

    /// The kernel that multiplies `rows` rows with weights like these: `avx2 dot`.
    fn kernel_name(&self, weight: &Self::Matrix, rows: usize) -> String;

    /// A copy of a weight in memory where the device reads it fastest, or `None` if it lies there.
    ///
    /// # Errors
    /// If the device has no memory for it.
    fn resident_copy(&self, weight: &Self::Matrix) -> Result<Option<Self::Matrix>>;
}
