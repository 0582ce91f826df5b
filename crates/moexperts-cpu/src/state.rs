//! The state that layers keep of sequences between forwards.

use moexperts_core::{Result, StateSpec, checks};

use crate::{
    attention::{HeadDims, KvState},
    cpu::Cpu,
};

/// The state of all layers, for all sequences.
#[derive(Debug)]
pub struct State {
    layers: Vec<LayerState>,
    sequences: usize,
}

/// The state of one layer.
#[derive(Debug)]
struct LayerState {
    spec: StateSpec,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    Kv(KvState),
    Nothing,
}

impl State {
    pub(crate) fn new(layers: &[StateSpec], sequences: usize) -> Result<Self> {
        checks::states(layers)?;
        let layer = |&spec: &StateSpec| {
            let kept = match spec {
                StateSpec::Kv { kv_heads, head_dim, value_dim, window } => {
                    let dims = HeadDims { keys: head_dim, values: value_dim };
                    Kept::Kv(KvState::new(kv_heads, dims, window, sequences))
                }
                StateSpec::None => Kept::Nothing,
                _ => return Err(Cpu::problem(format!("a state of {spec:?} is not supported"))),
            };
            Ok(LayerState { spec, kept })
        };
        Ok(Self { layers: layers.iter().map(layer).collect::<Result<_>>()?, sequences })
    }

    /// Allocates for that many positions of a sequence.
    pub(crate) fn reserve(&mut self, sequence: usize, positions: usize) -> Result<()> {
        checks::indices("sequence", [sequence], self.sequences)?;
        self.layers.iter_mut().try_for_each(|layer| match &mut layer.kept {
            Kept::Kv(state) => state.reserve(sequence, positions),
            Kept::Nothing => Ok(()),
        })
    }

    /// Whether all layers can go on at a position of a sequence.
    pub(crate) fn can_cut(&self, sequence: usize, position: usize) -> bool {
        let can_cut = |layer: &LayerState| match &layer.kept {
            Kept::Kv(state) => state.can_cut(sequence, position),
            Kept::Nothing => true,
        };
        sequence < self.sequences && self.layers.iter().all(can_cut)
    }

    /// Bytes that are allocated.
    pub(crate) fn size_bytes(&self) -> usize {
        let bytes = |layer: &LayerState| match &layer.kept {
            Kept::Kv(state) => state.size_bytes(),
            Kept::Nothing => 0,
        };
        self.layers.iter().map(bytes).sum()
    }

    /// The description of a layer's state.
    pub(crate) fn spec(&self, layer: usize) -> Result<&StateSpec> {
        checks::indices("layer", [layer], self.layers.len())?;
        Ok(&self.layers[layer].spec)
    }

    /// The keys and values of a layer, if it keeps them.
    pub(crate) fn kv(&mut self, layer: usize) -> Option<&mut KvState> {
        match &mut self.layers.get_mut(layer)?.kept {
            Kept::Kv(state) => Some(state),
            Kept::Nothing => None,
        }
    }
}
