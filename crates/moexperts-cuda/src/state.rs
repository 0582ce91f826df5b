//! The state of layers between forwards: what they keep of each sequence.

use moexperts_core::{Result, StateSpec, checks};

use crate::{
    attention::kv::{KvGroup, KvLayer},
    cuda::Cuda,
    error::problem,
};

/// The state of all layers for all sequences. Layers of equal states are a group, which shares memory
/// and the plan of a batch.
#[derive(Debug)]
pub struct State {
    layers: Vec<LayerState>,
    kv_groups: Vec<KvGroup>,
    sequences: usize,
}

/// The state of one layer.
#[derive(Debug)]
struct LayerState {
    spec: StateSpec,
    kept: Kept,
}

#[derive(Debug, Clone, Copy)]
enum Kept {
    /// Keys and values, as a layer of a group.
    Kv {
        group: usize,
        index: usize,
    },
    Nothing,
}

impl State {
    pub(crate) fn new(layers: &[StateSpec], sequences: usize) -> Result<Self> {
        checks::states(layers)?;
        let mut state = Self { layers: Vec::new(), kv_groups: Vec::new(), sequences };
        for &spec in layers {
            let kept = state.push_kept(spec)?;
            state.layers.push(LayerState { spec, kept });
        }
        Ok(state)
    }

    fn push_kept(&mut self, spec: StateSpec) -> Result<Kept> {
        match spec {
            StateSpec::Kv { kv_heads, head_dim, value_dim, window } => {
                let alike = self.layers.iter().find(|layer| layer.spec == spec);
                let group = match alike.map(|layer| layer.kept) {
                    Some(Kept::Kv { group, .. }) => group,
                    _ => {
                        let widths = [kv_heads, head_dim, value_dim];
                        self.kv_groups.push(KvGroup::new(widths, window, self.sequences));
                        self.kv_groups.len() - 1
                    }
                };
                Ok(Kept::Kv { group, index: self.kv_groups[group].push_layer() })
            }
            StateSpec::None => Ok(Kept::Nothing),
            _ => Err(problem(format!("a state of {spec:?} is not supported"))),
        }
    }

    /// Allocates memory for a number of positions of a sequence.
    pub(crate) fn reserve(&mut self, cuda: &Cuda, sequence: usize, positions: usize) -> Result<()> {
        checks::indices("sequence", [sequence], self.sequences)?;
        self.kv_groups.iter_mut().try_for_each(|group| group.reserve(cuda, sequence, positions))
    }

    /// Whether all layers can continue at a position of a sequence.
    pub(crate) fn can_cut(&self, sequence: usize, position: usize) -> bool {
        let mut groups = self.kv_groups.iter();
        sequence < self.sequences && groups.all(|group| group.can_cut(sequence, position))
    }

    /// Bytes of allocated memory.
    pub(crate) fn size_bytes(&self) -> usize {
        self.kv_groups.iter().map(KvGroup::size_bytes).sum()
    }

    /// The description of a layer's state.
    pub(crate) fn spec(&self, layer: usize) -> Result<&StateSpec> {
        checks::indices("layer", [layer], self.layers.len())?;
        Ok(&self.layers[layer].spec)
    }

    /// The keys and values of a layer, if it keeps them.
    pub(crate) fn kv(&mut self, layer: usize) -> Option<KvLayer<'_>> {
        match self.layers.get(layer)?.kept {
            Kept::Kv { group: group_index, index } => {
                let group = &mut self.kv_groups[group_index];
                Some(KvLayer { group_index, group, index })
            }
            Kept::Nothing => None,
        }
    }
}
