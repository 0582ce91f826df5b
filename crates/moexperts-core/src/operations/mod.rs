//! Each operation of a device: its description, the check of its arguments, and its formula.

pub(crate) mod attention;
pub(crate) mod elementwise;
pub(crate) mod linear;
pub(crate) mod norm;
pub(crate) mod rope;
pub(crate) mod route;
pub(crate) mod rows;

pub use attention::{AttentionCall, AttentionSpec};
pub use elementwise::{Activation, GateFunction};
pub use rope::RopePairing;
pub use route::{ExpertGroups, PickOn, RouteOperands, RouterSpec, Score, SharedSlices};

/// An operation of a device, with a method of its name in [`Operations`](crate::Operations).
///
/// A device may lack one: a model that needs it is refused when it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operation {
    /// `embed`.
    Embed,
    /// `embedding_bag`.
    EmbeddingBag,
    /// `reshape`.
    Reshape,
    /// `select_rows`.
    SelectRows,
    /// `put_rows`.
    PutRows,
    /// `add_rows`.
    AddRows,
    /// `layer_norm`.
    LayerNorm,
    /// `rms_norm` and `add_rms_norm`.
    RmsNorm,
    /// `linear`.
    Linear,
    /// `rope`.
    Rope,
    /// `attention`.
    Attention,
    /// `full_attention`.
    FullAttention,
    /// `route` and `route_all`.
    Route,
    /// `activate`.
    Activate,
    /// `add`.
    Add,
    /// `add_gated`.
    AddGated,
    /// `gate`.
    Gate,
    /// `scale`.
    Scale,
    /// `clamp`.
    Clamp,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Embed,
        Self::EmbeddingBag,
        Self::Reshape,
        Self::SelectRows,
        Self::PutRows,
        Self::AddRows,
        Self::LayerNorm,
        Self::RmsNorm,
        Self::Linear,
        Self::Rope,
        Self::Attention,
        Self::FullAttention,
        Self::Route,
        Self::Activate,
        Self::Add,
        Self::AddGated,
        Self::Gate,
        Self::Scale,
        Self::Clamp,
    ];

    /// The method of a device.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::EmbeddingBag => "embedding_bag",
            Self::Reshape => "reshape",
            Self::SelectRows => "select_rows",
            Self::PutRows => "put_rows",
            Self::AddRows => "add_rows",
            Self::LayerNorm => "layer_norm",
            Self::RmsNorm => "rms_norm",
            Self::Linear => "linear",
            Self::Rope => "rope",
            Self::Attention => "attention",
            Self::FullAttention => "full_attention",
            Self::Route => "route",
            Self::Activate => "activate",
            Self::Add => "add",
            Self::AddGated => "add_gated",
            Self::Gate => "gate",
            Self::Scale => "scale",
            Self::Clamp => "clamp",
        }
    }
}
