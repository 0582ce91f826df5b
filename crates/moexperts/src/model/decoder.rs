//! The forward of a decoder, over any device.

use std::{fmt, sync::Arc};

use moexperts_core::{
    Activation, AttentionSpec, Batch, Device, DeviceLinear, Experts, ExpertsBackend, KvCacheSpec,
    RouterSpec, Scratch,
};

use super::{
    Position, Prompt, VisualRows,
    inputs::Inputs,
    ops::{Immediate, Ops},
    spec::DecoderSpec,
};
use crate::error::Result;

/// A decoder and its weights on a device, which compiled plans share.
#[derive(Debug)]
pub struct Decoder<D: Device> {
    pub(super) device: D,
    /// No other decoder of this process has it.
    pub(super) number: u64,
    pub(super) spec: DecoderSpec,
    pub(super) embed_tokens: Arc<DeviceLinear<D>>,
    pub(super) layers: Vec<Layer<D>>,
    pub(super) norm: Arc<D::Vector>,
    /// `None`: the embedding is the head too.
    pub(super) lm_head: Option<Arc<DeviceLinear<D>>>,
}

#[derive(Debug)]
pub(super) struct Layer<D: Device> {
    pub(super) input_layernorm: Arc<D::Vector>,
    pub(super) attention: Attention<D>,
    pub(super) post_attention_layernorm: Arc<D::Vector>,
    pub(super) mlp: Mlp<D>,
}

#[derive(Debug)]
pub(super) struct Attention<D: Device> {
    pub(super) q_proj: Arc<DeviceLinear<D>>,
    pub(super) k_proj: Arc<DeviceLinear<D>>,
    pub(super) v_proj: Arc<DeviceLinear<D>>,
    pub(super) o_proj: Arc<DeviceLinear<D>>,
    /// Norms of queries and keys.
    pub(super) qk_norm: Option<[Arc<D::Vector>; 2]>,
}

#[derive(Debug)]
pub(super) enum Mlp<D: Device> {
    Dense { mlp: GatedMlp<D>, activation: Activation },
    Moe(Moe<D>),
}

#[derive(Debug)]
pub(super) struct Moe<D: Device> {
    /// The router, as checkpoints call it.
    pub(super) gate: Arc<DeviceLinear<D>>,
    pub(super) router: RouterSpec,
    pub(super) experts: Arc<Experts<D>>,
    pub(super) shared_expert: Option<SharedExpert<D>>,
    pub(super) activation: Activation,
}

/// Gate, up and down projection.
pub(super) type GatedMlp<D> = [Arc<DeviceLinear<D>>; 3];

#[derive(Debug)]
pub(super) struct SharedExpert<D: Device> {
    pub(super) mlp: GatedMlp<D>,
    pub(super) gate: Arc<DeviceLinear<D>>,
}

/// What one caller keeps from forward to forward: keys, values and buffers.
#[derive(Debug)]
pub struct Session<D: Device> {
    pub(crate) cache: D::KvCache,
    pub(crate) scratch: Scratch,
    pub(crate) inputs: Inputs<D>,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// What a forward reads.
#[derive(Debug)]
pub struct Input<'a, D: Device> {
    /// Token ids `[T]`.
    pub ids: &'a [u32],
    /// Which sequence each token is of, and which place it has there.
    pub batch: &'a Batch,
    /// Where each token stands `[T]`.
    pub positions: &'a [Position],
    /// The rows that come from pictures.
    pub visuals: &'a [VisualRows<D>],
    /// For which tokens logits are wanted.
    pub logits: LogitsRows,
}

/// The arguments of one [`Decoder::forward`].
pub struct Forward<'a, D: Device> {
    /// What it reads.
    pub input: Input<'a, D>,
    /// The caller's keys, values and buffers.
    pub session: &'a mut Session<D>,
    /// What executes the experts.
    pub experts: &'a dyn ExpertsBackend<D>,
    /// Who is shown the stages.
    pub observer: Observer<'a, D>,
}

impl<D: Device> fmt::Debug for Forward<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward")
            .field("input", &self.input)
            .field("experts", &self.experts)
            .finish_non_exhaustive()
    }
}

impl<D: Device> Decoder<D> {
    /// Where it computes.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Tells it from every other decoder of this process.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// What it is.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// The experts of each Mixture-of-Experts layer, in order.
    pub fn experts(&self) -> impl Iterator<Item = &Arc<Experts<D>>> {
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
        Ok(Session {
            cache: self.device.new_kv_cache(spec)?,
            scratch: Scratch::default(),
            inputs: Inputs::default(),
            read: vec![Prompt::default(); sequences],
        })
    }

    /// Writes the logits [rows, V], row-major, of some tokens of some sequences.
    ///
    /// # Errors
    /// For a token id beyond the vocabulary, a span beyond what its sequence holds, router logits
    /// that are no numbers, and what the backend or the device returns.
    pub fn forward(&self, mut call: Forward<'_, D>, logits: &mut Vec<f32>) -> Result<()> {
        let device = &self.device;
        device.enter(|| {
            self.prepare(&mut call)?;
            let out = self.trace(&mut Immediate::new(device, &mut call))?;
            Ok(device.read_tensor(&out, logits)?)
        })
    }

    /// Brings what the forward reads to the device.
    pub(crate) fn prepare(&self, call: &mut Forward<'_, D>) -> Result<()> {
        call.session.inputs.prepare(&self.device, &self.spec.rope, &call.input)
    }

    /// The forward itself: logits [rows, V].
    ///
    /// # Errors
    /// As the operations.
    pub(crate) fn trace<O: Ops<D>>(&self, ops: &mut O) -> Result<O::Tensor> {
        let eps = self.spec.rms_norm_eps;
        let mut x = ops.embed(&self.embed_tokens)?;
        ops.put_visuals(&mut x)?;
        for (index, layer) in self.layers.iter().enumerate() {
            ops.enter_layer(index);
            let normed = ops.rms_norm("input_layernorm", &x, &layer.input_layernorm, eps)?;
            let attended = self.attention(ops, index, &normed)?;
            ops.add(&mut x, &attended)?;

            let normed =
                ops.rms_norm("post_attention_layernorm", &x, &layer.post_attention_layernorm, eps)?;
            let mixed = match &layer.mlp {
                Mlp::Dense { mlp, activation } => gated_mlp(ops, mlp, *activation, &normed)?,
                Mlp::Moe(moe) => moe.forward(ops, &normed)?,
            };
            ops.add(&mut x, &mixed)?;
            ops.show(|x| Stage::BlockOutput(x), &x);
            ops.add_deepstack(&mut x)?;
        }
        ops.leave_layers();
        let x = ops.select_logits_rows(x)?;
        let normed = ops.rms_norm("norm", &x, &self.norm, eps)?;
        ops.linear("lm_head", &normed, self.lm_head.as_ref().unwrap_or(&self.embed_tokens))
    }

    fn attention<O: Ops<D>>(&self, ops: &mut O, index: usize, x: &O::Tensor) -> Result<O::Tensor> {
        let (shape, spec) = (self.spec.attention, &self.spec.layers[index]);
        let attention = &self.layers[index].attention;
        let mut q = ops.linear("q_proj", x, &attention.q_proj)?;
        let mut k = ops.linear("k_proj", x, &attention.k_proj)?;
        let mut v = ops.linear("v_proj", x, &attention.v_proj)?;
        if let Some([q_norm, k_norm]) = &attention.qk_norm {
            q = ops.rms_norm("q_norm", &q, q_norm, self.spec.rms_norm_eps)?;
            k = ops.rms_norm("k_norm", &k, k_norm, self.spec.rms_norm_eps)?;
        }
        if let Some(limit) = spec.clip_qkv {
            for tensor in [&mut q, &mut k, &mut v] {
                ops.clamp(tensor, limit)?;
            }
        }
        ops.rope(&mut q, shape.head_dim)?;
        ops.rope(&mut k, shape.head_dim)?;
        let spec = AttentionSpec {
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            scale: (shape.head_dim as f32).powf(-0.5),
            sliding_window: spec.sliding_window,
        };
        let attended = ops.attention([&q, &k, &v], &spec)?;
        ops.linear("o_proj", &attended, &attention.o_proj)
    }
}

impl<D: Device> Moe<D> {
    fn forward<O: Ops<D>>(&self, ops: &mut O, x: &O::Tensor) -> Result<O::Tensor> {
        let logits = ops.linear("gate", x, &self.gate)?;
        ops.show(|x| Stage::RouterLogits(x), &logits);
        let routing = ops.route(&logits, &self.router)?;
        ops.show_routing(&routing);
        let mut out = ops.experts(&self.experts, x, &routing)?;
        ops.show(|x| Stage::ExpertsOutput(x), &out);
        if let Some(shared) = &self.shared_expert {
            let y = gated_mlp(ops, &shared.mlp, self.activation, x)?;
            let gate = ops.linear("shared_expert_gate", x, &shared.gate)?;
            ops.add_gated(&mut out, &y, &gate)?;
        }
        Ok(out)
    }
}

fn gated_mlp<D: Device, O: Ops<D>>(
    ops: &mut O,
    [gate_proj, up_proj, down_proj]: &GatedMlp<D>,
    activation: Activation,
    x: &O::Tensor,
) -> Result<O::Tensor> {
    let gate = ops.linear("gate_proj", x, gate_proj)?;
    let mut up = ops.linear("up_proj", x, up_proj)?;
    ops.activate(activation, &gate, &mut up)?;
    ops.linear("down_proj", &up, down_proj)
}
