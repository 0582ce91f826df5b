//! The forward of a decoder, over any device.

use std::fmt;

use moexperts_core::{
    Activation, AttentionSpec, Batch, Device, DeviceLinear, Experts, ExpertsBackend, ExpertsCall,
    KvCacheSpec, RouterSpec, Scratch,
};

use super::{Position, Prompt, VisualRows, spec::DecoderSpec};
use crate::error::Result;

/// A decoder and its weights on a device.
#[derive(Debug)]
pub struct Decoder<D: Device> {
    pub(super) device: D,
    pub(super) spec: DecoderSpec,
    pub(super) embed_tokens: DeviceLinear<D>,
    pub(super) layers: Vec<Layer<D>>,
    pub(super) norm: D::Vector,
    /// `None`: the embedding is the head too.
    pub(super) lm_head: Option<DeviceLinear<D>>,
}

#[derive(Debug)]
pub(super) struct Layer<D: Device> {
    pub(super) input_layernorm: D::Vector,
    pub(super) attention: Attention<D>,
    pub(super) post_attention_layernorm: D::Vector,
    pub(super) mlp: Mlp<D>,
}

#[derive(Debug)]
pub(super) struct Attention<D: Device> {
    pub(super) q_proj: DeviceLinear<D>,
    pub(super) k_proj: DeviceLinear<D>,
    pub(super) v_proj: DeviceLinear<D>,
    pub(super) o_proj: DeviceLinear<D>,
    /// Norms of queries and keys.
    pub(super) qk_norm: Option<[D::Vector; 2]>,
}

#[derive(Debug)]
pub(super) enum Mlp<D: Device> {
    Dense { mlp: [DeviceLinear<D>; 3], activation: Activation },
    Moe(Moe<D>),
}

#[derive(Debug)]
pub(super) struct Moe<D: Device> {
    /// The router, as checkpoints call it.
    pub(super) gate: DeviceLinear<D>,
    pub(super) router: RouterSpec,
    pub(super) experts: Experts<D>,
    pub(super) shared_expert: Option<SharedExpert<D>>,
    pub(super) activation: Activation,
}

#[derive(Debug)]
pub(super) struct SharedExpert<D: Device> {
    pub(super) mlp: [DeviceLinear<D>; 3],
    pub(super) gate: DeviceLinear<D>,
}

/// What one caller keeps from forward to forward: keys, values and buffers.
#[derive(Debug)]
pub struct Session<D: Device> {
    cache: D::KvCache,
    scratch: Scratch,
    /// What keys and values are cached of, by sequence.
    pub(crate) read: Vec<Prompt>,
}

impl<D: Device> Session<D> {
    /// Sequences it holds.
    pub fn sequences(&self) -> usize {
        self.read.len()
    }
}

/// For which rows of a batch logits are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitsRows {
    /// Every token.
    All,
    /// The last token of each span.
    LastOfSpan,
}

/// A value on the way through a decoder, shown to an observer.
#[derive(Debug)]
pub enum Stage<'a, D: Device> {
    /// [T, E], before the softmax.
    RouterLogits(&'a D::Tensor),
    /// top_k_index [T, K] and top_k_weights [T, K].
    Routing(&'a D::Routing),
    /// [T, H]: the weighted sum of the routed experts.
    ExpertsOutput(&'a D::Tensor),
    /// [T, H]: the residual stream after the block, before pictures add to it.
    BlockOutput(&'a D::Tensor),
}

/// Sees every stage of every layer; the index is the layer's.
pub type Observer<'a, D> = &'a mut (dyn FnMut(usize, Stage<'_, D>) + Send);

/// The arguments of one [`Decoder::forward`].
pub struct Forward<'a, D: Device> {
    /// Token ids `[T]`.
    pub ids: &'a [u32],
    /// Which sequence each token is of, and which place it has there.
    pub batch: &'a Batch,
    /// Where each token stands `[T]`.
    pub positions: &'a [Position],
    /// The rows that come from pictures.
    pub visuals: &'a [VisualRows<D>],
    /// The caller's keys, values and buffers.
    pub session: &'a mut Session<D>,
    /// What executes the experts.
    pub experts: &'a dyn ExpertsBackend<D>,
    /// For which tokens logits are wanted.
    pub logits: LogitsRows,
    /// Who is shown the stages.
    pub observer: Observer<'a, D>,
}

impl<D: Device> fmt::Debug for Forward<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward")
            .field("ids", &self.ids)
            .field("batch", &self.batch)
            .field("experts", &self.experts)
            .field("logits", &self.logits)
            .finish_non_exhaustive()
    }
}

impl<D: Device> Decoder<D> {
    /// Where it computes.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// What it is.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// The experts of each Mixture-of-Experts layer, in order.
    pub fn experts(&self) -> impl Iterator<Item = &Experts<D>> {
        self.layers.iter().filter_map(|layer| match &layer.mlp {
            Mlp::Moe(moe) => Some(&moe.experts),
            Mlp::Dense { .. } => None,
        })
    }

    /// An empty session for a number of sequences.
    ///
    /// # Errors
    /// If the device has no room for it.
    pub fn session(&self, sequences: usize) -> Result<Session<D>> {
        let spec = KvCacheSpec {
            layers: self.spec.layers.len(),
            kv_heads: self.spec.attention.kv_heads,
            head_dim: self.spec.attention.head_dim,
            sequences,
        };
        let cache = self.device.new_kv_cache(spec)?;
        Ok(Session { cache, scratch: Scratch::default(), read: vec![Prompt::default(); sequences] })
    }

    /// Logits `[rows, V]`, row-major, of some tokens of some sequences.
    ///
    /// # Errors
    /// For a token id beyond the vocabulary, a span beyond what its sequence holds, router logits
    /// that are no numbers, and what the backend or the device returns.
    pub fn forward(&self, mut call: Forward<'_, D>) -> Result<Vec<f32>> {
        self.device.enter(|| self.forward_inside(&mut call))
    }

    fn forward_inside(&self, call: &mut Forward<'_, D>) -> Result<Vec<f32>> {
        let (device, eps, batch) = (&self.device, self.spec.rms_norm_eps, call.batch);
        if call.positions.len() != batch.tokens() {
            return Err(moexperts_core::Error::Shape {
                what: "positions".into(),
                expected: format!("[{}]", batch.tokens()),
                got: format!("[{}]", call.positions.len()),
            }
            .into());
        }
        let [cos, sin] = self.spec.rope.angles(batch, call.positions);
        let pairs = self.spec.rope.head_dim / 2;
        let angles = [
            device.load_tensor(batch.tokens(), pairs, cos)?,
            device.load_tensor(batch.tokens(), pairs, sin)?,
        ];
        let mut x = device.embed(&self.embed_tokens.weight, call.ids)?;
        for visual in call.visuals {
            device.put_rows(&mut x, &visual.rows, &visual.features.embeddings)?;
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = device.rms_norm(&x, &layer.input_layernorm, eps)?;
            let attended = self.attention(index, &normed, &angles, call)?;
            device.add(&mut x, &attended)?;

            let normed = device.rms_norm(&x, &layer.post_attention_layernorm, eps)?;
            let mixed = match &layer.mlp {
                Mlp::Dense { mlp, activation } => self.gated_mlp(mlp, *activation, &normed)?,
                Mlp::Moe(moe) => self.moe(index, moe, &normed, call)?,
            };
            device.add(&mut x, &mixed)?;
            (call.observer)(index, Stage::BlockOutput(&x));
            for visual in call.visuals {
                if let Some(features) = visual.features.deepstack.get(index) {
                    device.add_rows(&mut x, &visual.rows, features)?;
                }
            }
        }
        if call.logits == LogitsRows::LastOfSpan {
            let last: Vec<usize> = batch
                .rows()
                .filter(|(span, _)| span.tokens > 0)
                .map(|(_, rows)| rows.end - 1)
                .collect();
            x = device.select_rows(&x, &last)?;
        }
        let normed = device.rms_norm(&x, &self.norm, eps)?;
        let head = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
        Ok(device.read_tensor(&device.linear(&normed, head)?)?)
    }

    fn attention(
        &self,
        index: usize,
        x: &D::Tensor,
        [cos, sin]: &[D::Tensor; 2],
        call: &mut Forward<'_, D>,
    ) -> Result<D::Tensor> {
        let (device, shape, spec) = (&self.device, self.spec.attention, &self.spec.layers[index]);
        let attention = &self.layers[index].attention;
        let mut q = device.linear(x, &attention.q_proj)?;
        let mut k = device.linear(x, &attention.k_proj)?;
        let mut v = device.linear(x, &attention.v_proj)?;
        if let Some([q_norm, k_norm]) = &attention.qk_norm {
            q = device.rms_norm(&q, q_norm, self.spec.rms_norm_eps)?;
            k = device.rms_norm(&k, k_norm, self.spec.rms_norm_eps)?;
        }
        if let Some(limit) = spec.clip_qkv {
            for tensor in [&mut q, &mut k, &mut v] {
                device.clamp(tensor, limit)?;
            }
        }
        device.rope(&mut q, shape.head_dim, cos, sin)?;
        device.rope(&mut k, shape.head_dim, cos, sin)?;
        let spec = AttentionSpec {
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            scale: (shape.head_dim as f32).powf(-0.5),
            sliding_window: spec.sliding_window,
        };
        let cache = &mut call.session.cache;
        let attended = device.attention([&q, &k, &v], cache, index, call.batch, &spec)?;
        Ok(device.linear(&attended, &attention.o_proj)?)
    }

    fn moe(
        &self,
        index: usize,
        moe: &Moe<D>,
        x: &D::Tensor,
        call: &mut Forward<'_, D>,
    ) -> Result<D::Tensor> {
        let (device, experts, observer) = (&self.device, &moe.experts, &mut *call.observer);
        let logits = device.linear(x, &moe.gate)?;
        observer(index, Stage::RouterLogits(&logits));
        let routing = &device.route(&logits, &moe.router)?;
        observer(index, Stage::Routing(routing));
        let mut out = device.new_tensor_like(x)?;
        let scratch = &mut call.session.scratch;
        call.experts.forward(ExpertsCall { device, experts, x, routing, scratch }, &mut out)?;
        observer(index, Stage::ExpertsOutput(&out));
        if let Some(shared) = &moe.shared_expert {
            let y = self.gated_mlp(&shared.mlp, moe.activation, x)?;
            device.add_gated(&mut out, &y, &device.linear(x, &shared.gate)?)?;
        }
        Ok(out)
    }

    fn gated_mlp(
        &self,
        [gate_proj, up_proj, down_proj]: &[DeviceLinear<D>; 3],
        activation: Activation,
        x: &D::Tensor,
    ) -> Result<D::Tensor> {
        let device = &self.device;
        let gate = device.linear(x, gate_proj)?;
        let mut up = device.linear(x, up_proj)?;
        device.activate(activation, Some(&gate), &mut up)?;
        Ok(device.linear(&up, down_proj)?)
    }
}
