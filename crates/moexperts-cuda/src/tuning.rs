//! The settings of the kernels that autotuning changes.

use moexperts_core::{Knob, Rows};

/// How a [`Cuda`](crate::Cuda) cuts products of many rows. The defaults follow from the shapes; every
/// value gives the same sums, but for the order in which they are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuning {
    /// Weight rows of a tile, where a tile has that many; 0 takes what suits the shape.
    pub(crate) tile_rows: usize,
    /// Positions of a tile, where a tile has that many; 0 takes what suits the shape.
    pub(crate) tile_positions: usize,
}

/// A knob with the setting that it changes.
struct Setting {
    knob: Knob,
    field: fn(&mut Tuning) -> &mut usize,
}

static SETTINGS: [Setting; 2] = [TILE_ROWS, TILE_POSITIONS];

const TILE_ROWS: Setting = Setting {
    knob: Knob { name: "tile_rows", values: &[0, 32, 64, 128], default: 0, rows: Rows::Many },
    field: |tuning| &mut tuning.tile_rows,
};

const TILE_POSITIONS: Setting = Setting {
    knob: Knob {
        name: "tile_positions",
        values: &[0, 16, 32, 64, 128],
        default: 0,
        rows: Rows::Many,
    },
    field: |tuning| &mut tuning.tile_positions,
};

/// The knobs of [`SETTINGS`], in their order.
pub(crate) static KNOBS: [Knob; SETTINGS.len()] = [TILE_ROWS.knob, TILE_POSITIONS.knob];

impl Tuning {
    /// The same settings but for the knob at `index` of [`KNOBS`].
    ///
    /// # Panics
    /// If there is no such knob.
    pub(crate) fn with(mut self, index: usize, value: usize) -> Self {
        *(SETTINGS[index].field)(&mut self) = value;
        self
    }
}

impl Default for Tuning {
    fn default() -> Self {
        let mut tuning = Self { tile_rows: 0, tile_positions: 0 };
        for Setting { knob, field } in &SETTINGS {
            *field(&mut tuning) = knob.default;
        }
        tuning
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_knob_turns_one_setting_to_each_of_its_values() {
        for (index, Knob { name, values, default, .. }) in KNOBS.iter().enumerate() {
            assert!(values.contains(default), "{name}");
            assert_eq!(SETTINGS[index].knob.name, *name);
            let tunings: Vec<Tuning> =
                values.iter().map(|&value| Tuning::default().with(index, value)).collect();
            for (at, &value) in values.iter().enumerate() {
                assert_eq!(tunings[at] == Tuning::default(), value == *default, "{name}");
                assert!(tunings[..at].iter().all(|other| *other != tunings[at]), "{name}");
            }
        }
    }
}
