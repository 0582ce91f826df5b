//! How large the pieces of work are, for every instruction set alike.

/// Chains that run side by side: two units with a latency of up to six cycles are full.
pub(super) const CHAINS: usize = 12;

/// Values that are read between two looks at the clock: a megabyte.
pub(super) const BLOCK: usize = 1 << 17;

/// Values of a row where four are read at once: 4 kB.
pub(super) const ROW: usize = 1 << 9;

/// Values of one step of the readers: two registers of 64 bytes, four of 32.
pub(super) const STEP: usize = 16;
