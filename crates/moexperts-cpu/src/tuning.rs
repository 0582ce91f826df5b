//! The settings of the kernels that autotuning turns.

use moexperts_core::{Knob, Rows};

/// Weight rows that pass over some inputs before the next, at most: 96 rows of 2048 values of bf16
/// are 384 KiB, which stay in a second-level cache of 512 KiB. Whole tiles of 6, 8 and 16 rows.
pub(crate) const MAX_BLOCK_OUTPUTS: usize = 96;

/// Panels of inputs that pass over a block, at most: more gained nothing where it was measured
/// (bench/record/2026-11-23-kernel-choices-zen3.md).
pub(crate) const MAX_BLOCK_PANELS: usize = 8;

/// How a [`Cpu`](crate::Cpu) divides and orders its products. The defaults are what suits most
/// machines; every value gives the same sums, but rows that pass through panels are added up in
/// another order than rows that pass through dot products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuning {
    /// Prefetch distance of dot products, in groups of weight rows; 0 turns prefetching off.
    pub(crate) ahead: usize,
    /// Parts per thread, at most, that work is cut into.
    pub(crate) parts_per_thread: usize,
    /// Rows from which on a last panel is worth it; 0 is what suits the format of the weights.
    pub(crate) panel_rows: usize,
    /// Weight rows that pass over some panels before the next.
    pub(crate) block_outputs: usize,
    /// Panels that pass over a block of weight rows together.
    pub(crate) block_panels: usize,
    /// Bytes of those panels that are multiplied before the next columns.
    pub(crate) panel_bytes: usize,
}

// The defaults were measured: bench/record/2026-11-23-kernel-choices-zen3.md.

const AHEAD: Knob = Knob { name: "ahead", values: &[0, 1, 2, 4], default: 2, rows: Rows::Few };

const PARTS_PER_THREAD: Knob =
    Knob { name: "parts_per_thread", values: &[1, 2, 4, 8, 16], default: 8, rows: Rows::Any };

const PANEL_ROWS: Knob =
    Knob { name: "panel_rows", values: &[0, 4, 8, 12, 16], default: 0, rows: Rows::Many };

const BLOCK_OUTPUTS: Knob = Knob {
    name: "block_outputs",
    values: &[24, 48, MAX_BLOCK_OUTPUTS],
    default: MAX_BLOCK_OUTPUTS,
    rows: Rows::Many,
};

const BLOCK_PANELS: Knob = Knob {
    name: "block_panels",
    values: &[2, 4, MAX_BLOCK_PANELS],
    default: MAX_BLOCK_PANELS,
    rows: Rows::Many,
};

const PANEL_BYTES: Knob = Knob {
    name: "panel_bytes",
    values: &[64 << 10, 128 << 10, 256 << 10, 512 << 10],
    default: 256 << 10,
    rows: Rows::Many,
};

/// A knob and the field of [`Tuning`] that it turns.
struct Setting {
    knob: Knob,
    field: fn(&mut Tuning) -> &mut usize,
}

/// The one list of knobs.
const SETTINGS: [Setting; 6] = [
    Setting { knob: AHEAD, field: |tuning| &mut tuning.ahead },
    Setting { knob: PARTS_PER_THREAD, field: |tuning| &mut tuning.parts_per_thread },
    Setting { knob: PANEL_ROWS, field: |tuning| &mut tuning.panel_rows },
    Setting { knob: BLOCK_OUTPUTS, field: |tuning| &mut tuning.block_outputs },
    Setting { knob: BLOCK_PANELS, field: |tuning| &mut tuning.block_panels },
    Setting { knob: PANEL_BYTES, field: |tuning| &mut tuning.panel_bytes },
];

/// The knobs of the list.
pub(crate) const KNOBS: &[Knob] = &{
    let mut knobs = [AHEAD; SETTINGS.len()];
    let mut index = 0;
    while index < knobs.len() {
        knobs[index] = SETTINGS[index].knob;
        index += 1;
    }
    knobs
};

impl Tuning {
    /// With knob `index` of [`KNOBS`] at a value. A value that the knob does not have, such as one
    /// that an older version measured, changes nothing.
    ///
    /// # Panics
    /// If there is no such knob.
    pub(crate) fn with(mut self, index: usize, value: usize) -> Self {
        let Setting { knob, field } = &SETTINGS[index];
        if knob.values.contains(&value) {
            *field(&mut self) = value;
        }
        self
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            ahead: AHEAD.default,
            parts_per_thread: PARTS_PER_THREAD.default,
            panel_rows: PANEL_ROWS.default,
            block_outputs: BLOCK_OUTPUTS.default,
            block_panels: BLOCK_PANELS.default,
            panel_bytes: PANEL_BYTES.default,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_knob_turns_one_setting_to_each_of_its_values() {
        for (index, Knob { name, values, default, .. }) in KNOBS.iter().enumerate() {
            assert!(values.contains(default), "{name}");
            assert_eq!(Tuning::default().with(index, usize::MAX), Tuning::default(), "{name}");
            let settings: Vec<Tuning> =
                values.iter().map(|&value| Tuning::default().with(index, value)).collect();
            for (place, &value) in values.iter().enumerate() {
                assert_eq!(settings[place] == Tuning::default(), value == *default, "{name}");
                assert!(settings[..place].iter().all(|other| *other != settings[place]), "{name}");
            }
        }
    }
}
