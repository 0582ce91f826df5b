//! The operations a forward is made of.

use std::{fmt, sync::Arc};

use moexperts_core::{
    Activation, AttentionSpec, Device, DeviceLinear, Experts, ExpertsBackend, GateFunction,
    Operation, RopePairing, RouterSpec,
};

/// What executes experts.
#[derive(Debug)]
pub(crate) enum RunBy<D: Device> {
    /// The backend the forward is run with: routed experts.
    Chosen,
    /// This one, whatever was chosen: a dense layer as an experts layer of one expert.
    Fixed(Arc<dyn ExpertsBackend<D::Experts>>),
}

/// An operation, which reads `reads` and writes `writes` of its [`Node`](super::Node), in
/// the order given here.
/// What it computes is said at the method of [`Operations`](moexperts_core::Operations) of its name.
pub(crate) enum Op<D: Device> {
    /// → x
    Embed(Arc<DeviceLinear<D>>),
    /// The pixels of a picture, in patches. → x
    Pixels,
    /// The learned positions of patches. → positions
    EmbeddingBag(Arc<D::Matrix>),
    /// Pictures in place of their placeholders. In place: x
    PutVisuals,
    /// What pictures add after their `index`-th layer. In place: x
    AddDeepstack { index: usize },
    /// The same values in rows of another width; what is read is used up. x → x
    Reshape { cols: usize },
    /// x → normed
    LayerNorm { weight: Arc<D::Vector>, bias: Arc<D::Vector>, eps: f32 },
    /// x → normed
    RmsNorm { weight: Arc<D::Vector>, eps: f32 },
    /// y → in place: x; normed
    AddRmsNorm { weight: Arc<D::Vector>, eps: f32, scale: f32 },
    /// x → one value for each layer
    Linear(Vec<Arc<DeviceLinear<D>>>),
    /// In place: x
    Clamp(f32),
    /// In place: x
    Scale(f32),
    /// In place: one or more
    Rope { rope: usize, head_dim: usize, pairing: RopePairing },
    /// q, k, v → attended
    Attention { spec: AttentionSpec, layer: usize, sinks: Option<Arc<D::Vector>> },
    /// q, k, v → attended
    FullAttention(AttentionSpec),
    /// gate → in place: x
    Gate(GateFunction),
    /// y → in place: x
    Add { scale: f32 },
    /// logits → routing
    Route(Router<D>),
    /// x → logits; the gate of a shared expert, if it has one; routing
    Router { linears: Vec<Arc<DeviceLinear<D>>>, router: Router<D>, shared_slices: usize },
    /// → routing of every token to expert 0
    RouteAll,
    /// x, routing → out
    Experts { experts: Arc<Experts<D::Experts>>, run_by: RunBy<D> },
    /// gate, or nothing → in place: up
    Activate(Activation),
    /// y, gate → in place: x
    AddGated,
    /// x → those rows of it whose logits are computed
    SelectLogitsRows,
}

/// How router logits become a routing.
pub(crate) struct Router<D: Device> {
    pub(crate) spec: RouterSpec,
    /// `[E]`: added to what experts are picked on.
    pub(crate) pick_bias: Option<Arc<D::Vector>>,
    /// `[E]`: factors on the weights.
    pub(crate) per_expert_scale: Option<Arc<D::Vector>>,
}

impl<D: Device> Clone for Router<D> {
    fn clone(&self) -> Self {
        Self {
            spec: self.spec,
            pick_bias: self.pick_bias.clone(),
            per_expert_scale: self.per_expert_scale.clone(),
        }
    }
}

impl<D: Device> Clone for RunBy<D> {
    fn clone(&self) -> Self {
        match self {
            Self::Chosen => Self::Chosen,
            Self::Fixed(backend) => Self::Fixed(Arc::clone(backend)),
        }
    }
}

impl<D: Device> Clone for Op<D> {
    fn clone(&self) -> Self {
        match self {
            Self::Embed(table) => Self::Embed(Arc::clone(table)),
            Self::Pixels => Self::Pixels,
            Self::EmbeddingBag(table) => Self::EmbeddingBag(Arc::clone(table)),
            Self::PutVisuals => Self::PutVisuals,
            Self::AddDeepstack { index } => Self::AddDeepstack { index: *index },
            Self::Reshape { cols } => Self::Reshape { cols: *cols },
            Self::LayerNorm { weight, bias, eps } => {
                Self::LayerNorm { weight: Arc::clone(weight), bias: Arc::clone(bias), eps: *eps }
            }
            Self::RmsNorm { weight, eps } => {
                Self::RmsNorm { weight: Arc::clone(weight), eps: *eps }
            }
            Self::AddRmsNorm { weight, eps, scale } => {
                Self::AddRmsNorm { weight: Arc::clone(weight), eps: *eps, scale: *scale }
            }
            Self::Linear(linears) => Self::Linear(linears.clone()),
            Self::Clamp(limit) => Self::Clamp(*limit),
            Self::Scale(factor) => Self::Scale(*factor),
            Self::Rope { rope, head_dim, pairing } => {
                Self::Rope { rope: *rope, head_dim: *head_dim, pairing: *pairing }
            }
            Self::Attention { spec, layer, sinks } => {
                Self::Attention { spec: *spec, layer: *layer, sinks: sinks.clone() }
            }
            Self::FullAttention(spec) => Self::FullAttention(*spec),
            Self::Gate(function) => Self::Gate(*function),
            Self::Add { scale } => Self::Add { scale: *scale },
            Self::Route(router) => Self::Route(router.clone()),
            Self::Router { linears, router, shared_slices } => Self::Router {
                linears: linears.clone(),
                router: router.clone(),
                shared_slices: *shared_slices,
            },
            Self::RouteAll => Self::RouteAll,
            Self::Experts { experts, run_by } => {
                Self::Experts { experts: Arc::clone(experts), run_by: run_by.clone() }
            }
            Self::Activate(activation) => Self::Activate(*activation),
            Self::AddGated => Self::AddGated,
            Self::SelectLogitsRows => Self::SelectLogitsRows,
        }
    }
}

impl<D: Device> Op<D> {
    /// Its name, for people who read what a plan does.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Pixels => "load_tensor",
            Self::AddRmsNorm { .. } => "add_rms_norm",
            Self::Router { .. } => "router",
            Self::Experts { .. } => "experts",
            _ => self.operations().first().map_or("", |operation| operation.name()),
        }
    }

    /// The operations that a device needs for it, beside an experts backend.
    pub(crate) fn operations(&self) -> &'static [Operation] {
        match self {
            Self::Embed(_) => &[Operation::Embed],
            Self::Pixels | Self::Experts { .. } => &[],
            Self::EmbeddingBag(_) => &[Operation::EmbeddingBag],
            Self::PutVisuals => &[Operation::PutRows],
            Self::AddDeepstack { .. } => &[Operation::AddRows],
            Self::Reshape { .. } => &[Operation::Reshape],
            Self::LayerNorm { .. } => &[Operation::LayerNorm],
            Self::RmsNorm { .. } | Self::AddRmsNorm { .. } => &[Operation::RmsNorm],
            Self::Linear(_) => &[Operation::Linear],
            Self::Clamp(_) => &[Operation::Clamp],
            Self::Scale(_) => &[Operation::Scale],
            Self::Rope { .. } => &[Operation::Rope],
            Self::Attention { .. } => &[Operation::Attention],
            Self::FullAttention(_) => &[Operation::FullAttention],
            Self::Gate(_) => &[Operation::Gate],
            Self::Add { .. } => &[Operation::Add],
            Self::Route(_) | Self::RouteAll => &[Operation::Route],
            Self::Router { .. } => &[Operation::Linear, Operation::Route],
            Self::Activate(_) => &[Operation::Activate],
            Self::AddGated => &[Operation::AddGated],
            Self::SelectLogitsRows => &[Operation::SelectRows],
        }
    }

    /// Whether the chosen backend runs it.
    pub(crate) fn runs_chosen_backend(&self) -> bool {
        matches!(self, Self::Experts { run_by: RunBy::Chosen, .. })
    }
}

impl<D: Device> fmt::Debug for Op<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
