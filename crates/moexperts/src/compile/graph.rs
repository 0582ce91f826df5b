//! A forward as a list of operations on values.

use std::{fmt, sync::Arc};

use moexperts_core::{
    Activation, AttentionSpec, Device, DeviceLinear, Experts, ExpertsBackend, RouterSpec, Weight,
};

/// What flows between operations: an index into [`Graph::values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Value(pub(super) usize);

/// How many rows a value has in a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// One a token.
    Tokens,
    /// One for each token logits are wanted of.
    Logits,
}

/// What a value holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Activations [rows, cols].
    Tensor { rows: Rows, cols: usize },
    /// So many experts for each token.
    Routing { experts_per_token: usize },
}

/// An operation, which reads `reads` and writes `writes` of its [`Node`], in the order given here.
pub(super) enum Op<D: Device> {
    /// → x
    Embed(Arc<DeviceLinear<D>>),
    /// in place: x
    PutVisuals,
    /// in place: x
    AddDeepstack,
    /// x → normed
    RmsNorm { weight: Arc<D::Vector>, eps: f32 },
    /// y → in place: x; normed
    AddRmsNorm { weight: Arc<D::Vector>, eps: f32 },
    /// x → one for each layer
    Linear(Vec<Arc<DeviceLinear<D>>>),
    /// in place: x
    Clamp(f32),
    /// in place: one or more
    Rope { head_dim: usize },
    /// q, k, v → attended
    Attention(AttentionSpec),
    /// y → in place: x
    Add,
    /// logits → routing
    Route(RouterSpec),
    /// x → logits; the gate of a shared expert, if there are two layers; routing
    Router { linears: Vec<Arc<DeviceLinear<D>>>, spec: RouterSpec, shared_slices: usize },
    /// → routing of every token to expert 0
    RouteAll,
    /// x, routing → out
    Experts { experts: Arc<Experts<D>>, backend: Arc<dyn ExpertsBackend<D>> },
    /// gate → in place: up
    Activate(Activation),
    /// y, gate → in place: x
    AddGated,
    /// x → those rows of it that logits are wanted of
    SelectLogitsRows,
}

impl<D: Device> Op<D> {
    /// The name of the operation of a device.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Embed(_) => "embed",
            Self::PutVisuals => "put_rows",
            Self::AddDeepstack => "add_rows",
            Self::RmsNorm { .. } => "rms_norm",
            Self::AddRmsNorm { .. } => "add_rms_norm",
            Self::Linear(_) => "linear",
            Self::Clamp(_) => "clamp",
            Self::Rope { .. } => "rope",
            Self::Attention(_) => "attention",
            Self::Add => "add",
            Self::Route(_) | Self::RouteAll => "route",
            Self::Router { .. } => "router",
            Self::Experts { .. } => "experts",
            Self::Activate(_) => "activate",
            Self::AddGated => "add_gated",
            Self::SelectLogitsRows => "select_rows",
        }
    }

    /// Why the host has to wait here, if it has.
    pub(super) fn break_reason(&self) -> Option<&'static str> {
        match self {
            Self::Experts { backend, .. } if backend.reads_routing_on_host() => {
                Some("reads on the host which experts were hit")
            }
            _ => None,
        }
    }

    /// What the weights take, and what is done with them, for so many tokens and rows of logits.
    pub(super) fn cost(&self, tokens: usize, logits_rows: usize, shape: Option<Shape>) -> Cost {
        let rows = match shape {
            Some(Shape::Tensor { rows: Rows::Logits, .. }) => logits_rows,
            _ => tokens,
        };
        match self {
            Self::Embed(table) => {
                let weight = &table.weight;
                Cost {
                    bytes: (tokens * weight.cols() * weight.dtype().size_bytes()) as f64,
                    flops: 0.0,
                }
            }
            Self::Linear(linears) | Self::Router { linears, .. } => {
                let mut cost = Cost::default();
                for linear in linears {
                    let weight = &linear.weight;
                    cost.bytes += weight.size_bytes() as f64;
                    cost.flops += 2.0 * (rows * weight.rows() * weight.cols()) as f64;
                }
                cost
            }
            _ => Cost::default(),
        }
    }
}

impl<D: Device> fmt::Debug for Op<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes of weights that are read, and floating point operations on them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Cost {
    pub(super) bytes: f64,
    pub(super) flops: f64,
}

/// An operation in its place.
#[derive(Debug)]
pub(super) struct Node<D: Device> {
    pub(super) op: Op<D>,
    /// What it is in the model: the modules and steps that became one.
    pub(super) parts: Vec<&'static str>,
    /// Values it reads and does not change.
    pub(super) reads: Vec<Value>,
    /// Values it writes or changes in place.
    pub(super) writes: Vec<Value>,
    /// The layer, `None` before the first and after the last.
    pub(super) layer: Option<usize>,
}

/// A forward.
#[derive(Debug)]
pub(super) struct Graph<D: Device> {
    pub(super) nodes: Vec<Node<D>>,
    pub(super) values: Vec<Shape>,
    /// The logits.
    pub(super) output: Value,
}

impl<D: Device> Graph<D> {
    /// How many experts each token goes to, of a routing.
    pub(super) fn experts_per_token(&self, routing: Value) -> usize {
        match self.values[routing.0] {
            Shape::Routing { experts_per_token } => experts_per_token,
            Shape::Tensor { .. } => 0,
        }
    }

    /// How many of those are slices of a shared expert, which every token goes to.
    fn shared_slices(&self, routing: Value) -> usize {
        let slices = self.nodes.iter().find_map(|node| match node.op {
            Op::Router { shared_slices, .. } if node.writes.contains(&routing) => {
                Some(shared_slices)
            }
            _ => None,
        });
        slices.unwrap_or(0)
    }

    /// What a node costs for so many tokens and rows of logits. Of experts those count that are hit
    /// if all routed ones are as likely.
    pub(super) fn cost(&self, node: &Node<D>, tokens: usize, logits_rows: usize) -> Cost {
        let Op::Experts { experts, .. } = &node.op else {
            let shape = node.writes.first().map(|value| self.values[value.0]);
            return node.op.cost(tokens, logits_rows, shape);
        };
        let spec = experts.spec();
        let chosen = self.experts_per_token(node.reads[1]);
        let shared = self.shared_slices(node.reads[1]);
        let routed = spec.experts.saturating_sub(shared) as f64;
        let missed = (1.0 - chosen.saturating_sub(shared) as f64 / routed.max(1.0)).max(0.0);
        let hit = shared as f64 + routed * (1.0 - missed.powi(tokens as i32));
        Cost {
            bytes: hit * spec.bytes_per_expert() as f64,
            flops: 2.0 * (tokens * chosen * spec.weights_per_expert()) as f64,
        }
    }
}
