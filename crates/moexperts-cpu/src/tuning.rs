//! The settings of the kernels that autotuning turns.

use moexperts_core::{Knob, Rows};

use crate::product::{BLOCK_OUTPUTS, BLOCK_PANELS};

/// How a [`Cpu`](crate::Cpu) divides and orders its products. The defaults are what suits most
/// machines; every value gives the same sums, but rows that pass through panels are added up in
/// another order than rows that pass through dot products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuning {
    /// Groups of weight rows ahead of their use that dot products ask for them; 0 asks for none.
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

/// Index of a knob in [`KNOBS`].
mod index {
    pub(super) const AHEAD: usize = 0;
    pub(super) const PARTS_PER_THREAD: usize = 1;
    pub(super) const PANEL_ROWS: usize = 2;
    pub(super) const BLOCK_OUTPUTS: usize = 3;
    pub(super) const BLOCK_PANELS: usize = 4;
    pub(super) const PANEL_BYTES: usize = 5;
}

/// The fields of [`Tuning`], in their order.
pub(crate) const KNOBS: &[Knob] = &[
    Knob { name: "ahead", values: &[0, 1, 2, 4], default: 2, rows: Rows::Few },
    Knob { name: "parts_per_thread", values: &[1, 2, 4, 8, 16], default: 8, rows: Rows::Any },
    Knob { name: "panel_rows", values: &[0, 4, 8, 12, 16], default: 0, rows: Rows::Many },
    Knob {
        name: "block_outputs",
        values: &[24, 48, BLOCK_OUTPUTS],
        default: BLOCK_OUTPUTS,
        rows: Rows::Many,
    },
    Knob {
        name: "block_panels",
        values: &[2, 4, BLOCK_PANELS],
        default: BLOCK_PANELS,
        rows: Rows::Many,
    },
    Knob {
        name: "panel_bytes",
        values: &[64 << 10, 128 << 10, 256 << 10, 512 << 10],
        default: 256 << 10,
        rows: Rows::Many,
    },
];

impl Tuning {
    /// With one knob at another value.
    pub(crate) fn with(mut self, knob: usize, value: usize) -> Self {
        match knob {
            index::AHEAD => self.ahead = value,
            index::PARTS_PER_THREAD => self.parts_per_thread = value.max(1),
            index::PANEL_ROWS => self.panel_rows = value,
            index::BLOCK_OUTPUTS => self.block_outputs = value.clamp(1, BLOCK_OUTPUTS),
            index::BLOCK_PANELS => self.block_panels = value.clamp(1, BLOCK_PANELS),
            index::PANEL_BYTES => self.panel_bytes = value,
            _ => unreachable!("knob {knob} of {}", KNOBS.len()),
        }
        self
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            ahead: KNOBS[index::AHEAD].default,
            parts_per_thread: KNOBS[index::PARTS_PER_THREAD].default,
            panel_rows: KNOBS[index::PANEL_ROWS].default,
            block_outputs: KNOBS[index::BLOCK_OUTPUTS].default,
            block_panels: KNOBS[index::BLOCK_PANELS].default,
            panel_bytes: KNOBS[index::PANEL_BYTES].default,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_knob_turns_one_setting_to_each_of_its_values() {
        for (knob, Knob { name, values, default, .. }) in KNOBS.iter().enumerate() {
            assert!(values.contains(default), "{name}");
            let settings: Vec<Tuning> =
                values.iter().map(|&value| Tuning::default().with(knob, value)).collect();
            for (place, &value) in values.iter().enumerate() {
                assert_eq!(settings[place] == Tuning::default(), value == *default, "{name}");
                assert!(settings[..place].iter().all(|other| *other != settings[place]), "{name}");
            }
        }
    }
}
