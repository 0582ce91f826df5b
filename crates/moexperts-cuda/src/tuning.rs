//! The settings of the kernels that autotuning turns.

use moexperts_core::{Knob, Rows};

/// How a [`Cuda`](crate::Cuda) cuts products of many rows. The defaults are chosen from the shapes;
/// every value gives the same sums, but for the order in which they are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuning {
    /// Weight rows of a tile, where there is one with so many; 0 is what suits the shape.
    pub(crate) tile_rows: usize,
    /// Positions of a tile, where there is one with so many; 0 is what suits the shape.
    pub(crate) tile_positions: usize,
}

/// Index of a knob in [`KNOBS`].
mod index {
    pub(super) const TILE_ROWS: usize = 0;
    pub(super) const TILE_POSITIONS: usize = 1;
}

/// The fields of [`Tuning`], in their order.
pub(crate) const KNOBS: &[Knob] = &[
    Knob { name: "tile_rows", values: &[0, 32, 64, 128], default: 0, rows: Rows::Many },
    Knob { name: "tile_positions", values: &[0, 16, 32, 64, 128], default: 0, rows: Rows::Many },
];

impl Tuning {
    /// With one knob at another value.
    pub(crate) fn with(mut self, knob: usize, value: usize) -> Self {
        match knob {
            index::TILE_ROWS => self.tile_rows = value,
            index::TILE_POSITIONS => self.tile_positions = value,
            _ => unreachable!("knob {knob} of {}", KNOBS.len()),
        }
        self
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            tile_rows: KNOBS[index::TILE_ROWS].default,
            tile_positions: KNOBS[index::TILE_POSITIONS].default,
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
