//! The operations of a device: their names, their arguments, and the trait of them.

use crate::{
    Activation, Batch, DeviceLinear, Error, Execution, Memory, RouteOperands, RouterSpec, Scratch,
    StateSpec, checks, error::Result,
};

/// An operation of a device, with a method of its name in [`Operations`].
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

/// Which two values of a head a rotary embedding turns together, of the R that turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopePairing {
    /// Value i and value i + R / 2.
    Halves,
    /// Value 2i and value 2i + 1.
    Neighbours,
}

impl RopePairing {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Halves, Self::Neighbours];

    /// The places in a head of the two values of pair `index`, of `pairs`.
    pub const fn places(self, index: usize, pairs: usize) -> [usize; 2] {
        match self {
            Self::Halves => [index, index + pairs],
            Self::Neighbours => [2 * index, 2 * index + 1],
        }
    }
}

/// What a value of a gate becomes before something is multiplied with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GateFunction {
    /// `1 / (1 + e^-z)`.
    Sigmoid,
    /// `ln(1 + e^z)`.
    Softplus,
}

impl GateFunction {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Sigmoid, Self::Softplus];
}

/// Attention of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSpec {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key/value heads; each serves `heads / kv_heads` neighbouring query heads.
    pub kv_heads: usize,
    /// Width of a head of a query and of a key.
    pub head_dim: usize,
    /// Width of a head of a value and of the result.
    pub value_dim: usize,
    /// Factor on the scores before the softmax.
    pub scale: f32,
    /// If set, a token sees itself and the `sliding_window - 1` before it.
    pub sliding_window: Option<usize>,
}

impl AttentionSpec {
    /// What a layer of this attention keeps.
    pub fn state(&self) -> StateSpec {
        let Self { kv_heads, head_dim, value_dim, sliding_window: window, .. } = *self;
        StateSpec::Kv { kv_heads, head_dim, value_dim, window }
    }
}

/// The arguments of one [`Operations::attention`].
#[derive(Debug)]
pub struct AttentionCall<'a, D: Memory> {
    /// Queries [T, heads · D], keys [T, kv_heads · D] and values [T, kv_heads · V].
    pub qkv: [&'a D::Tensor; 3],
    /// `[heads]`: a logit for each head, which joins the softmax as it is, not multiplied by the
    /// scale, and is dropped after it (gpt_oss).
    pub sinks: Option<&'a D::Vector>,
    /// What layers keep, of what was read before and now.
    pub state: &'a mut D::State,
    /// The layer's index in the list of states.
    pub layer: usize,
    /// Which sequence each token is of, and which place it has there.
    pub batch: &'a Batch,
    /// What is computed.
    pub spec: &'a AttentionSpec,
    /// The caller's buffers, kept from call to call.
    pub scratch: &'a mut Scratch,
}

/// A shared expert as slices of the width of a routed one, beside them.
#[derive(Debug)]
pub struct SharedSlices<'a, D: Memory> {
    /// How many.
    pub slices: usize,
    /// [T, 1]: each slice's weight is its sigmoid; without it, 1.
    pub gate: Option<&'a D::Tensor>,
}

/// The operations of a device.
///
/// Activations are `[rows, cols]` in f32, a row a token. Every operation is deterministic: the
/// same inputs give the same bits, whatever the number of threads.
///
/// An operation writes its result into `out`, which takes the result's shape; memory it has already
/// is used again, so that a loop over the same shapes allocates nothing. What an operation needs
/// besides is kept in the caller's [`Scratch`]. [`made`](crate::made) gives an operation a new
/// result.
pub trait Operations: Execution {
    /// Whether the device has an operation; it has all by default.
    fn has_operation(&self, operation: Operation) -> bool {
        let _ = operation;
        true
    }

    /// Refuses a model that needs an operation which the device lacks.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) that names the operation.
    fn check_operation(&self, operation: Operation) -> Result<()> {
        if self.has_operation(operation) {
            return Ok(());
        }
        Err(Error::Device {
            device: Self::NAME,
            problem: format!(
                "the operation `{}` is not supported, the CPU has it",
                operation.name()
            ),
        })
    }

    /// Whether it has this activation.
    fn has_activation(&self, activation: Activation) -> bool;

    /// Whether the device has this attention, with sinks or without: what a model's loader calls,
    /// so that an attention that is not supported is refused before it runs.
    ///
    /// By default it has every attention.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) that says what is not supported.
    fn check_attention(&self, spec: &AttentionSpec, sinks: bool) -> Result<()> {
        let _ = (spec, sinks);
        Ok(())
    }

    /// Whether the device has this router for a number of experts, with a pick bias or without: what
    /// a model's loader calls, so that a router that is not supported is refused before it runs.
    ///
    /// By default it has every router.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) that says what is not supported;
    /// [`Error::Router`](crate::Error::Router) if a layer of that many experts cannot have it.
    fn check_router(&self, spec: &RouterSpec, experts: usize, pick_bias: bool) -> Result<()> {
        let _ = pick_bias;
        checks::router(spec, experts)
    }

    /// Row `ids[t]` of `table` [V, H] for each t: [T, H].
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for an id that is no row.
    fn embed(&self, table: &Self::Matrix, ids: &[u32], out: &mut Self::Tensor) -> Result<()>;

    /// `out[n] = Σ_i weights[n, i] · table[rows[n, i]]`: [N, H], from `taps` rows of `table` [V, H]
    /// for each of the N outputs.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for a row that is none; if `rows` and
    /// `weights` do not hold N · `taps` values each.
    fn embedding_bag(
        &self,
        table: &Self::Matrix,
        rows: &[u32],
        weights: &[f32],
        taps: usize,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// `x` [R, C] with the same values in the same order as rows of `cols`: a view.
    ///
    /// # Errors
    /// If R · C is no multiple of `cols`.
    fn reshape(&self, x: Self::Tensor, cols: usize) -> Result<Self::Tensor>;

    /// Chosen rows of `x`, in the given order.
    ///
    /// # Errors
    /// If a row does not exist.
    fn select_rows(&self, x: &Self::Tensor, rows: &[usize], out: &mut Self::Tensor) -> Result<()>;

    /// `x[rows[i]] = y[i]`.
    ///
    /// # Errors
    /// If a row does not exist or the shapes differ.
    fn put_rows(&self, x: &mut Self::Tensor, rows: &[usize], y: &Self::Tensor) -> Result<()>;

    /// `x[rows[i]] += y[i]`, for rows that differ.
    ///
    /// # Errors
    /// If a row does not exist or the shapes differ.
    fn add_rows(&self, x: &mut Self::Tensor, rows: &[usize], y: &Self::Tensor) -> Result<()>;

    /// `(x - mean(x)) / sqrt(variance(x) + eps) · weight + bias` over each row.
    ///
    /// # Errors
    /// If the row is not as long as the weight and the bias.
    fn layer_norm(
        &self,
        x: &Self::Tensor,
        weight: &Self::Vector,
        bias: &Self::Vector,
        eps: f32,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// `x / sqrt(mean(x²) + eps) · weight` over each `weight.len()` neighbouring values of a row:
    /// a whole row, or each head of it.
    ///
    /// # Errors
    /// If the row is not a multiple of the weight.
    fn rms_norm(
        &self,
        x: &Self::Tensor,
        weight: &Self::Vector,
        eps: f32,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// `x += scale · y`, then `out = rms_norm(x)`.
    ///
    /// # Errors
    /// As [`add`](Self::add) and [`rms_norm`](Self::rms_norm).
    fn add_rms_norm(
        &self,
        x: &mut Self::Tensor,
        y: &Self::Tensor,
        scale: f32,
        weight: &Self::Vector,
        eps: f32,
        out: &mut Self::Tensor,
    ) -> Result<()> {
        self.add(x, y, scale)?;
        self.rms_norm(x, weight, eps, out)
    }

    /// `outs[i] = x · linears[i].weightᵀ + linears[i].bias`: [T, in] to [T, out] each, as one
    /// grouped product.
    ///
    /// # Errors
    /// If the shapes differ, or there are not as many results as layers.
    fn linear(
        &self,
        x: &Self::Tensor,
        linears: &[&DeviceLinear<Self>],
        scratch: &mut Scratch,
        outs: &mut [Self::Tensor],
    ) -> Result<()>;

    /// Rotates each head of `x` [T, heads · D] by the angles whose `cos` and `sin` [T, R / 2] are
    /// given; which two of the first R values of a head turn together, `pairing` says.
    ///
    /// # Errors
    /// If the shapes differ.
    fn rope(
        &self,
        x: &mut Self::Tensor,
        head_dim: usize,
        pairing: RopePairing,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
    ) -> Result<()>;

    /// Adds keys and values to a layer's state; the causal attention of the queries over those it
    /// holds: [T, heads · V],
    /// `out[t, h] = Σ_j softmax(scale · q[t, h] · k[j, g])_j · v[j, g]` over the tokens j that t sees,
    /// with the key/value head g that serves h. A sink is one more logit of the softmax, without a
    /// value.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if the shapes differ or are not those of the layer's
    /// state, [`Error::OutOfRange`](crate::Error::OutOfRange) if a span begins beyond what its
    /// sequence holds, [`Error::Dropped`](crate::Error::Dropped) if it begins where the layer has
    /// dropped what its tokens see ([`can_cut`](Memory::can_cut) says so beforehand); if the device
    /// does not support the attention or has no memory for it. The state stays as it was, unless the
    /// device fails while it computes: then it holds at most what it held before the spans.
    fn attention(&self, call: AttentionCall<'_, Self>, out: &mut Self::Tensor) -> Result<()>;

    /// The attention of the queries [T, heads · D] over the keys [T, kv_heads · D] and values
    /// [T, kv_heads · V] of their own segment, before and after them: [T, heads · V]. Segments lie
    /// one after another; nothing is kept.
    ///
    /// # Errors
    /// If the shapes differ, the segments are not T tokens together, or `spec` has a window.
    fn full_attention(
        &self,
        qkv: [&Self::Tensor; 3],
        segments: &[usize],
        spec: &AttentionSpec,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// The experts each token goes to, from router logits [T, E], as [`RouterSpec`] says.
    ///
    /// With a `shared` expert, its slices are the experts from E on, which every token goes to:
    /// [T, K + slices].
    ///
    /// # Errors
    /// [`Error::Router`](crate::Error::Router) if there is no such router of E experts,
    /// [`Error::Shape`](crate::Error::Shape) if the operands are not those of T tokens and E experts;
    /// [`Error::NotFinite`](crate::Error::NotFinite) for logits, or a pick bias, that are NaN or
    /// infinite, where the device can tell without waiting; elsewhere the weights are NaN.
    fn route(
        &self,
        logits: &Self::Tensor,
        spec: &RouterSpec,
        operands: RouteOperands<'_, Self>,
        out: &mut Self::Routing,
    ) -> Result<()>;

    /// Sends each of `tokens` tokens to expert 0, with weight 1: [T, 1].
    ///
    /// # Errors
    /// If the device has no memory for it.
    fn route_all(&self, tokens: usize, out: &mut Self::Routing) -> Result<()>;

    /// `up = activation(gate, up)`, elementwise.
    ///
    /// # Errors
    /// If the shapes differ or the device does not have the activation.
    fn activate(
        &self,
        activation: Activation,
        gate: Option<&Self::Tensor>,
        up: &mut Self::Tensor,
    ) -> Result<()>;

    /// `x += scale · y`.
    ///
    /// # Errors
    /// If the shapes differ.
    fn add(&self, x: &mut Self::Tensor, y: &Self::Tensor, scale: f32) -> Result<()>;

    /// `x[t] += sigmoid(gate[t]) · y[t]` with `gate` [T, 1].
    ///
    /// # Errors
    /// If the shapes differ.
    fn add_gated(&self, x: &mut Self::Tensor, y: &Self::Tensor, gate: &Self::Tensor) -> Result<()>;

    /// `x[t, i] *= function(gate[t, i / (C / G)])` for `x` [T, C] and `gate` [T, G]: a factor for
    /// each of C / G neighbouring values.
    ///
    /// # Errors
    /// If the rows differ, or C is no multiple of G.
    fn gate(&self, x: &mut Self::Tensor, gate: &Self::Tensor, function: GateFunction)
    -> Result<()>;

    /// `x *= factor`.
    ///
    /// # Errors
    /// If the device failed at an operation before.
    fn scale(&self, x: &mut Self::Tensor, factor: f32) -> Result<()>;

    /// Limits every value to `-limit ..= limit`.
    ///
    /// # Errors
    /// If the device failed at an operation before.
    fn clamp(&self, x: &mut Self::Tensor, limit: f32) -> Result<()>;
}
