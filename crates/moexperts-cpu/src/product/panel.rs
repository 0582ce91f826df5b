//! Panels: input rows side by side in the lanes.

use half::bf16;

/// Input rows of a panel: the f32 values of a cache line, which are one register of AVX-512, two of
/// AVX2, and the columns of an AMX tile of sums.
pub const PANEL: usize = 16;

/// A type of inputs.
pub(crate) trait Input: Copy {
    /// Neighbouring columns that an instruction multiplies and adds at once: in a panel they lie
    /// side by side.
    const PAIR: usize;
    const ZERO: Self;
}

impl Input for f32 {
    const PAIR: usize = 1;
    const ZERO: Self = 0.0;
}

impl Input for bf16 {
    const PAIR: usize = 2;
    const ZERO: Self = bf16::ZERO;
}

/// Packs up to [`PANEL`] of the rows `[_, cols]` of `inputs` into a panel; the lanes that are left
/// become zero.
///
/// # Panics
/// If there are more rows, one does not exist, or `panel` does not hold a panel of `cols` columns.
pub(crate) fn pack<X: Input>(inputs: &[X], rows: &[u32], cols: usize, panel: &mut [X]) {
    let step = X::PAIR * PANEL;
    assert!(rows.len() <= PANEL && panel.len() == cols.div_ceil(X::PAIR) * step, "panel");
    if rows.len() < PANEL || !cols.is_multiple_of(X::PAIR) {
        panel.fill(X::ZERO);
    }
    // A few cache lines of every row at a time, so that the panel is written in order.
    for (block, panel) in panel.chunks_mut(PANEL / X::PAIR * step).enumerate() {
        let first = block * PANEL;
        let width = PANEL.min(cols - first);
        for (lane, &row) in rows.iter().enumerate() {
            let values = &inputs[row as usize * cols + first..][..width];
            for (col, &value) in values.iter().enumerate() {
                panel[col / X::PAIR * step + lane * X::PAIR + col % X::PAIR] = value;
            }
        }
    }
}
