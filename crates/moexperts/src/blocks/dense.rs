//! A feed-forward block of one gated layer, which every token passes.

use moexperts_core::{Activation, Device};

use super::context::Context;
use crate::{
    error::Result,
    graph::{Builder, Value},
    weights::{Tensors, Weights},
};

/// `down_proj(activation(gate_proj(x), up_proj(x)))`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Dense {
    /// Inner width.
    pub intermediate_size: usize,
    /// What stands between the products.
    pub activation: Activation,
    /// Whether the projections have biases.
    pub bias: bool,
    /// What the checkpoint calls the tensors.
    pub names: DenseNames,
}

/// The modules of a gated layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DenseNames {
    /// The module in the layer or in the block.
    pub module: &'static str,
    /// The gate projection.
    pub gate_proj: &'static str,
    /// The up projection.
    pub up_proj: &'static str,
    /// The down projection.
    pub down_proj: &'static str,
}

impl DenseNames {
    /// `gate_proj`, `up_proj` and `down_proj` of a module.
    pub const fn of(module: &'static str) -> Self {
        Self { module, gate_proj: "gate_proj", up_proj: "up_proj", down_proj: "down_proj" }
    }
}

impl Dense {
    /// `mlp.gate_proj` and so on, without biases.
    pub const fn new(intermediate_size: usize, activation: Activation) -> Self {
        Self { intermediate_size, activation, bias: false, names: DenseNames::of("mlp") }
    }

    pub(super) fn tensors(&self, context: Context, parent: &str, list: &mut Tensors<'_>) {
        let (inner, hidden) = (self.intermediate_size, context.hidden_size);
        let of = |name: &str| format!("{parent}.{}.{name}", self.names.module);
        list.linear(&of(self.names.gate_proj), [inner, hidden], self.bias);
        list.linear(&of(self.names.up_proj), [inner, hidden], self.bias);
        list.linear(&of(self.names.down_proj), [hidden, inner], self.bias);
    }

    pub(super) fn build<D: Device>(
        &self,
        parent: &str,
        weights: &mut Weights<'_, D>,
        graph: &mut Builder<D>,
        x: Value,
    ) -> Result<Value> {
        let of = |name: &str| format!("{parent}.{}.{name}", self.names.module);
        let gate = graph.linear("gate_proj", x, weights.linear(&of(self.names.gate_proj))?);
        let up = graph.linear("up_proj", x, weights.linear(&of(self.names.up_proj))?);
        graph.activate(self.activation, Some(gate), up);
        Ok(graph.linear("down_proj", up, weights.linear(&of(self.names.down_proj))?))
    }
}
