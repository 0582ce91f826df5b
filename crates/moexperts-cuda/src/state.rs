//! What layers keep of sequences between forwards.

use moexperts_core::{Result, StateSpec, checks};

use crate::{
    attention::{KvGroup, KvLayer},
    cuda::Cuda,
};

/// What all layers keep of all sequences. Layers of equal states are a group, which shares memory
/// and what kernels are told of a batch.
#[derive(Debug)]
pub struct State {
    layers: Vec<Layer>,
    kv_groups: Vec<KvGroup>,
    sequences: usize,
}

/// What one layer keeps.
#[derive(Debug)]
struct Layer {
    spec: StateSpec,
    kept: Kept,
}

#[derive(Debug, Clone, Copy)]
enum Kept {
    /// A layer of a group.
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
            state.layers.push(Layer { spec, kept });
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
            _ => Err(Cuda::problem(format!("a state of {spec:?} is not supported"))),
        }
    }

    /// Allocates for that many positions of a sequence.
    pub(crate) fn reserve(&mut self, cuda: &Cuda, sequence: usize, positions: usize) -> Result<()> {
        checks::indices("sequence", [sequence], self.sequences)?;
        self.kv_groups.iter_mut().try_for_each(|group| group.reserve(cuda, sequence, positions))
    }

    /// Whether all layers can go on at a position of a sequence.
    pub(crate) fn can_cut(&self, sequence: usize, position: usize) -> bool {
        let mut groups = self.kv_groups.iter();
        sequence < self.sequences && groups.all(|group| group.can_cut(sequence, position))
    }

    /// Bytes that are allocated.
    pub(crate) fn size_bytes(&self) -> usize {
        self.kv_groups.iter().map(KvGroup::size_bytes).sum()
    }

    /// What a layer is described to keep.
    pub(crate) fn spec(&self, layer: usize) -> Result<&StateSpec> {
        checks::indices("layer", [layer], self.layers.len())?;
        Ok(&self.layers[layer].spec)
    }

    /// The keys and values of a layer, if it keeps such.
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
