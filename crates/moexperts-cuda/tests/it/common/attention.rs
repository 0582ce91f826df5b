//! Layers of attention on a device, one batch after another.

use std::mem;

use moexperts_core::{
    AttentionCall, AttentionSpec, Batch, Device, Result, Scratch, Span, StateSpec,
};

use super::{bits, read, values};

/// Sequence, first position, tokens.
pub(crate) type Spans = [(usize, usize, usize)];

pub(crate) fn spec(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionSpec {
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionSpec { heads, kv_heads, head_dim, value_dim: head_dim, scale, sliding_window: None }
}

/// A layer of attention.
#[derive(Clone, Copy)]
pub(crate) struct AttentionLayer {
    pub(crate) spec: AttentionSpec,
    pub(crate) sinks: bool,
    pub(crate) state: StateSpec,
}

impl AttentionLayer {
    /// A layer without sinks, whose state holds the positions that it sees.
    pub(crate) fn new(spec: AttentionSpec) -> Self {
        Self { spec, sinks: false, state: spec.state() }
    }

    /// The same layer with a state of all positions.
    pub(crate) fn of_all(self) -> Self {
        let state = AttentionSpec { sliding_window: None, ..self.spec }.state();
        Self { state, ..self }
    }

    pub(crate) fn with_sinks(self) -> Self {
        Self { sinks: true, ..self }
    }
}

/// The state of three sequences, with the scratch of a caller.
pub(crate) struct Session<'a, D: Device> {
    pub(crate) device: &'a D,
    pub(crate) layers: Vec<AttentionLayer>,
    pub(crate) state: D::State,
    scratch: Scratch,
    /// Queries, keys and values of each layer.
    inputs: Vec<[D::Tensor; 3]>,
    sinks: Vec<Option<D::Vector>>,
}

impl<'a, D: Device> Session<'a, D> {
    /// Two layers of the same attention, whose states hold all positions.
    pub(crate) fn new(device: &'a D, spec: AttentionSpec) -> Self {
        Self::of(device, &[AttentionLayer::new(spec).of_all(); 2])
    }

    pub(crate) fn of(device: &'a D, layers: &[AttentionLayer]) -> Self {
        let states: Vec<StateSpec> = layers.iter().map(|layer| layer.state).collect();
        // About as large as the largest scores.
        let sinks = |layer: &AttentionLayer| {
            let sinks = values(layer.spec.heads, 77).iter().map(|value| 8.0 * value).collect();
            layer.sinks.then(|| device.load_vector(sinks).unwrap())
        };
        Self {
            device,
            layers: layers.to_vec(),
            state: device.new_state(&states, 3).unwrap(),
            scratch: Scratch::default(),
            inputs: layers.iter().map(|_| Default::default()).collect(),
            sinks: layers.iter().map(sinks).collect(),
        }
    }

    /// Attends in one layer. Queries, keys and values follow from the layer, the sequence and the
    /// position of a token.
    pub(crate) fn attend(
        &mut self,
        layer: usize,
        spans: &Spans,
        out: &mut D::Tensor,
    ) -> Result<()> {
        let AttentionSpec { heads, kv_heads, head_dim, value_dim, .. } = self.layers[layer].spec;
        let span = |&(sequence, start, tokens)| Span { sequence, start, tokens };
        let batch = Batch::new(spans.iter().map(span).collect());
        // Scores of several units, so that the softmax has peaks.
        let parts =
            [(heads * head_dim, 6.0), (kv_heads * head_dim, 1.0), (kv_heads * value_dim, 1.0)];
        let mut inputs = mem::take(&mut self.inputs[layer]);
        for (seed, (input, (cols, factor))) in (1..).zip(inputs.iter_mut().zip(parts)) {
            let rows = spans.iter().flat_map(|&(sequence, start, tokens)| {
                (start..start + tokens).flat_map(move |position| {
                    let place = (4 * position as u64).wrapping_add(sequence as u64);
                    values(cols, place.wrapping_mul(100) + 10 * layer as u64 + seed)
                })
            });
            let values: Vec<f32> = rows.map(|value| factor * value).collect();
            self.device.load_tensor(batch.tokens(), cols, &values, input)?;
        }
        let [q, k, v] = &inputs;
        let result = self.call([q, k, v], layer, &batch, out);
        self.inputs[layer] = inputs;
        result
    }

    pub(crate) fn call(
        &mut self,
        qkv: [&D::Tensor; 3],
        layer: usize,
        batch: &Batch,
        out: &mut D::Tensor,
    ) -> Result<()> {
        let index = layer.min(self.layers.len() - 1);
        let (spec, sinks) = (&self.layers[index].spec, self.sinks[index].as_ref());
        let (state, scratch) = (&mut self.state, &mut self.scratch);
        let call = AttentionCall { qkv, sinks, state, layer, batch, spec, scratch };
        self.device.attention(call, out)
    }

    /// The results of all layers that have a state.
    pub(crate) fn values(&mut self, spans: &Spans) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for layer in 0..self.layers.len() {
            if self.layers[layer].state != StateSpec::None {
                let mut out = D::Tensor::default();
                self.attend(layer, spans, &mut out)?;
                all.extend(read(self.device, &out));
            }
        }
        Ok(all)
    }

    pub(crate) fn bits(&mut self, spans: &Spans) -> Vec<u32> {
        bits(&self.values(spans).unwrap())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.device.state_bytes(&self.state)
    }

    pub(crate) fn can_cut(&self, sequence: usize, position: usize) -> bool {
        self.device.can_cut(&self.state, sequence, position)
    }
}
