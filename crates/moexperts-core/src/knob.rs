//! Settings of a device's kernels.

/// A setting of a device's kernels whose best value depends on the machine and the shapes.
///
/// What it is set to changes how fast an operation is, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knob {
    /// What reports and the cache of measurements call it.
    pub name: &'static str,
    /// What it can be set to.
    pub values: &'static [usize],
    /// The value nobody has to choose; one of them.
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
