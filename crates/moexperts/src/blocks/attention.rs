//! Grouped-query attention over cached keys and values.

use moexperts_core::{AttentionSpec, Device, GateFunction, RopePairing, StateSpec};

use super::context::Context;
use crate::{
    error::Result,
    graph::{Builder, Value},
    weights::{Tensors, Weights},
};

/// The attention of one layer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Attention {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a query's and a key's head.
    pub head_dim: usize,
    /// Width of a value's head.
    pub value_dim: usize,
    /// Factor on the scores before the softmax.
    pub scale: f32,
    /// Tokens that a token sees, itself included; all before it if `None`.
    pub sliding_window: Option<usize>,
    /// The rotary embedding of queries and keys, an index into the decoder's list.
    pub rope: Option<usize>,
    /// Which values of a head the rotary embedding turns together.
    pub rope_pairing: RopePairing,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub o_bias: bool,
    /// Norm of queries and keys, before the rotary embedding.
    pub qk_norm: QkNorm,
    /// Bound on queries, keys and values.
    pub clip_qkv: Option<f32>,
    /// Factor on the values.
    pub value_scale: f32,
    /// Whether each head has a logit that joins its softmax and is dropped after it.
    pub sinks: bool,
    /// Factors on what the heads give, from a projection of the layer's input.
    pub output_gate: Option<OutputGate>,
    /// What the checkpoint calls the tensors.
    pub names: AttentionNames,
}

/// Norm of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum QkNorm {
    /// None.
    None,
    /// Over each head: `q_norm` `[head_dim]`.
    PerHead,
    /// Over all heads together: `q_norm` `[heads · head_dim]`.
    Whole,
}

/// Factors on the output of the heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutputGate {
    /// What a value of the projection becomes.
    pub function: GateFunction,
    /// Whether there is one for each head, or one for each value of a head.
    pub per_head: bool,
}

/// The module of an attention and those in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttentionNames {
    /// The module in the layer.
    pub module: &'static str,
    /// The query projection.
    pub q_proj: &'static str,
    /// The key projection.
    pub k_proj: &'static str,
    /// The value projection.
    pub v_proj: &'static str,
    /// The output projection.
    pub o_proj: &'static str,
    /// The norm of queries.
    pub q_norm: &'static str,
    /// The norm of keys.
    pub k_norm: &'static str,
    /// The sinks, a tensor.
    pub sinks: &'static str,
    /// The projection of the output gate.
    pub gate: &'static str,
}

impl AttentionNames {
    /// `self_attn.q_proj` and so on, as most families have them.
    pub const LLAMA: Self = Self {
        module: "self_attn",
        q_proj: "q_proj",
        k_proj: "k_proj",
        v_proj: "v_proj",
        o_proj: "o_proj",
        q_norm: "q_norm",
        k_norm: "k_norm",
        sinks: "sinks",
        gate: "gate_proj",
    };
}

impl Attention {
    /// Plain attention with the first rotary embedding over halves of a head, `head_dim`^-½ as its
    /// scale, and neither biases nor norms.
    pub fn new(heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        Self {
            heads,
            kv_heads,
            head_dim,
            value_dim: head_dim,
            scale: (head_dim as f32).powf(-0.5),
            sliding_window: None,
            rope: Some(0),
            rope_pairing: RopePairing::Halves,
            qkv_bias: false,
            o_bias: false,
            qk_norm: QkNorm::None,
            clip_qkv: None,
            value_scale: 1.0,
            sinks: false,
            output_gate: None,
            names: AttentionNames::LLAMA,
        }
    }

    /// What a device computes.
    pub(crate) fn spec(&self) -> AttentionSpec {
        AttentionSpec {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            value_dim: self.value_dim,
            scale: self.scale,
            sliding_window: self.sliding_window,
        }
    }

    pub(super) fn state(&self) -> StateSpec {
        StateSpec::Kv {
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            value_dim: self.value_dim,
            window: self.sliding_window,
        }
    }

    pub(super) fn tensors(&self, context: Context, layer: &str, list: &mut Tensors<'_>) {
        let names = &self.names;
        let of = |name: &str| format!("{layer}.{}.{name}", names.module);
        let hidden = context.hidden_size;
        let [queries, keys] = [self.heads, self.kv_heads].map(|heads| heads * self.head_dim);
        let [outputs, values] = [self.heads, self.kv_heads].map(|heads| heads * self.value_dim);
        list.linear(&of(names.q_proj), [queries, hidden], self.qkv_bias);
        list.linear(&of(names.k_proj), [keys, hidden], self.qkv_bias);
        list.linear(&of(names.v_proj), [values, hidden], self.qkv_bias);
        list.linear(&of(names.o_proj), [hidden, outputs], self.o_bias);
        if let Some(gate) = self.output_gate {
            let rows = if gate.per_head { self.heads } else { outputs };
            list.linear(&of(names.gate), [rows, hidden], false);
        }
        let norms = match self.qk_norm {
            QkNorm::None => None,
            QkNorm::PerHead => Some([self.head_dim; 2]),
            QkNorm::Whole => Some([queries, keys]),
        };
        if let Some([q, k]) = norms {
            list.norm(&of(names.q_norm), q);
            list.norm(&of(names.k_norm), k);
        }
        if self.sinks {
            list.bias(of(names.sinks), self.heads);
        }
    }

    pub(super) fn build<D: Device>(
        &self,
        context: Context,
        index: usize,
        layer: &str,
        weights: &mut Weights<'_, D>,
        graph: &mut Builder<D>,
        x: Value,
    ) -> Result<Value> {
        let names = &self.names;
        let of = |name: &str| format!("{layer}.{}.{name}", names.module);
        let mut q = graph.linear("q_proj", x, weights.linear(&of(names.q_proj))?);
        let mut k = graph.linear("k_proj", x, weights.linear(&of(names.k_proj))?);
        let v = graph.linear("v_proj", x, weights.linear(&of(names.v_proj))?);
        if self.qk_norm != QkNorm::None {
            let eps = context.rms_norm_eps;
            q = graph.rms_norm("q_norm", q, weights.norm(&of(names.q_norm))?, eps);
            k = graph.rms_norm("k_norm", k, weights.norm(&of(names.k_norm))?, eps);
        }
        if let Some(limit) = self.clip_qkv {
            for value in [q, k, v] {
                graph.clamp("clip_qkv", value, limit);
            }
        }
        graph.scale("value_scale", v, self.value_scale);
        if let Some(rope) = self.rope {
            graph.rope(q, rope, self.head_dim, self.rope_pairing);
            graph.rope(k, rope, self.head_dim, self.rope_pairing);
        }
        let sinks = match self.sinks {
            true => Some(weights.vector(&of(names.sinks))?),
            false => None,
        };
        let attended = graph.attention([q, k, v], index, self.spec(), sinks);
        if let Some(gate) = self.output_gate {
            let values = graph.linear("output_gate", x, weights.linear(&of(names.gate))?);
            graph.gate("output_gate", attended, values, gate.function);
        }
        Ok(graph.linear("o_proj", attended, weights.linear(&of(names.o_proj))?))
    }
}
