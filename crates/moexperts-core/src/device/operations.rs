//! The operations of a device, as a trait.

#[cfg(doc)]
use crate::Error;
use crate::{
    cache::Scratch,
    device::memory::{DeviceLinear, Memory},
    error::Result,
    operations::{
        Activation, AttentionCall, AttentionSpec, GateFunction, Operation, RopePairing,
        RouteOperands, RouterSpec, route::check_router,
    },
};

/// The operations of a device.
///
/// Activations and vectors are f32, activations `[rows, cols]`, a row a token; matrices are weights
/// of any [format that the device has](crate::Memory::has_format). Letters are sizes: T tokens, H
/// values of a token, E experts, K experts per token. The formulas in f64 are in
/// [`reference`](crate::reference). Every operation is deterministic: the same inputs give the same
/// bits, whatever the number of threads.
///
/// An operation writes its result into `out`, which takes the result's shape; its memory is used
/// again, so that a loop over the same shapes allocates nothing. Buffers that an operation needs
/// besides are in the caller's [`Scratch`]. [`made`](crate::made) runs an operation into a new
/// tensor.
///
/// Beside the errors that an operation names, it returns [`Error::Device`] where the device is out
/// of memory, or failed at an operation before. Arguments are checked first: an operation that
/// refuses them has changed nothing.
pub trait Operations: Memory {
    /// Whether the device has an operation; it has all by default.
    /// [`Device::check_operation`](crate::Device::check_operation) refuses the others.
    fn has_operation(&self, operation: Operation) -> bool {
        let _ = operation;
        true
    }

    /// Whether it has this activation.
    fn has_activation(&self, activation: Activation) -> bool;

    /// Whether the device has this attention, with sinks or without. A model's loader calls it, so
    /// that an attention that is not supported is refused before it runs.
    ///
    /// By default it has every attention.
    ///
    /// # Errors
    /// [`Error::Device`] that says what is not supported.
    fn check_attention(&self, spec: &AttentionSpec, sinks: bool) -> Result<()> {
        let _ = (spec, sinks);
        Ok(())
    }

    /// Whether the device has this router for a number of experts, with a pick bias or without. A
    /// model's loader calls it, so that a router that is not supported is refused before it runs.
    ///
    /// By default it has every router.
    ///
    /// # Errors
    /// [`Error::Device`] that says what is not supported;
    /// [`Error::Router`] if a layer of that many experts cannot have it.
    fn check_router(&self, spec: &RouterSpec, experts: usize, pick_bias: bool) -> Result<()> {
        let _ = pick_bias;
        check_router(spec, experts)
    }

    /// `out[t] = table[ids[t]]`: rows of `table` [V, H] for `ids` `[T]`, to [T, H].
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for an id that is no row.
    fn embed(&self, table: &Self::Matrix, ids: &[u32], out: &mut Self::Tensor) -> Result<()>;

    /// `out[n] = Σ_i weights[n, i] · table[rows[n, i]]`: [N, H], from `taps` rows of `table` [V, H]
    /// for each of the N outputs. torch's `embedding_bag` with `mode="sum"`; Qwen3-VL interpolates
    /// position embeddings with it.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a row that does not exist, [`Error::Count`] if `rows` and
    /// `weights` do not hold N · `taps` values each.
    fn embedding_bag(
        &self,
        table: &Self::Matrix,
        rows: &[u32],
        weights: &[f32],
        taps: usize,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// `x` [R, C] with the same values in the same order as rows of `cols`, [R · C / `cols`,
    /// `cols`]: a view.
    ///
    /// # Errors
    /// [`Error::Shape`] if R · C is no multiple of `cols`.
    fn reshape(&self, x: Self::Tensor, cols: usize) -> Result<Self::Tensor>;

    /// `out[i] = x[rows[i]]`: N rows of `x` [R, C], to [N, C].
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if a row does not exist.
    fn select_rows(&self, x: &Self::Tensor, rows: &[usize], out: &mut Self::Tensor) -> Result<()>;

    /// `x[rows[i]] = y[i]`: N rows of `x` [R, C] become those of `y` [N, C].
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if a row does not exist, [`Error::Shape`] of `y`.
    fn put_rows(&self, x: &mut Self::Tensor, rows: &[usize], y: &Self::Tensor) -> Result<()>;

    /// `x[rows[i]] += y[i]`, for N rows of `x` [R, C] that differ and `y` [N, C].
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if a row does not exist, [`Error::Shape`] of `y`.
    fn add_rows(&self, x: &mut Self::Tensor, rows: &[usize], y: &Self::Tensor) -> Result<()>;

    /// `(x - mean(x)) / sqrt(variance(x) + eps) · weight + bias` over each row of `x` [T, H], with
    /// weight and bias `[H]`: [T, H]. Layer norm (Ba, Kiros, Hinton 2016), the variance divided by
    /// H.
    ///
    /// # Errors
    /// [`Error::Shape`] if the rows are not as long as the weight and the bias.
    fn layer_norm(
        &self,
        x: &Self::Tensor,
        weight: &Self::Vector,
        bias: &Self::Vector,
        eps: f32,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// `x / sqrt(mean(x²) + eps) · weight` over each `weight.len()` neighbouring values of the rows
    /// of `x` [T, H]: a whole row, or each head of it. RMS norm (Zhang, Sennrich 2019).
    ///
    /// # Errors
    /// [`Error::Shape`] if H is no multiple of the weight's length.
    fn rms_norm(
        &self,
        x: &Self::Tensor,
        weight: &Self::Vector,
        eps: f32,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// `x += scale · y`, then `out = rms_norm(x)`; all [T, H]. A device may do both in one pass.
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

    /// `outs[i] = x · linears[i].weightᵀ + linears[i].bias`: from [T, in] to [T, out] each, with
    /// weights [out, in] and biases `[out]`, as one grouped product.
    ///
    /// # Errors
    /// [`Error::Shape`] if an input or a bias does not fit its weight, [`Error::Count`] if there
    /// are not as many results as layers, [`Error::Device`] without kernels for a weight's format.
    fn linear(
        &self,
        x: &Self::Tensor,
        linears: &[&DeviceLinear<Self>],
        scratch: &mut Scratch,
        outs: &mut [Self::Tensor],
    ) -> Result<()>;

    /// Rotates each head of `x` [T, heads · D] by the angles whose `cos` and `sin` [T, R / 2] are
    /// given: `a, b = a · cos - b · sin, b · cos + a · sin` for the pairs of the first R values of
    /// a head that `pairing` names. Rotary position embeddings (Su et al. 2021).
    ///
    /// # Errors
    /// [`Error::Shape`] if rows and angles differ in number, or R is more than D.
    fn rope(
        &self,
        x: &mut Self::Tensor,
        head_dim: usize,
        pairing: RopePairing,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
    ) -> Result<()>;

    /// Adds keys and values to a layer's state, and computes the causal attention of the queries
    /// over those it holds: [T, heads · V], `out[t, h] = Σ_j softmax(scale · q[t, h] · k[j, g])_j ·
    /// v[j, g]` over the tokens j that t sees, with the key/value head g that serves h. A sink is
    /// one more logit of the softmax, without a value. After Vaswani et al. 2017, with shared heads
    /// (Ainslie et al. 2023), windows (Beltagy et al. 2020) and sinks (Xiao et al. 2023).
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Count`] or [`Error::Value`] if operands, description and the
    /// layer's state disagree, [`Error::OutOfRange`] if a span begins beyond the end of its
    /// sequence, [`Error::Dropped`] if it begins where the layer has dropped what its tokens see
    /// ([`can_cut`](crate::Memory::can_cut) says so beforehand), [`Error::Device`] if the device
    /// does not support the attention. The state stays as it was, unless the device fails while it
    /// computes: then it holds at most what it held before the spans.
    fn attention(&self, call: AttentionCall<'_, Self>, out: &mut Self::Tensor) -> Result<()>;

    /// The attention of the queries [T, heads · D] over the keys [T, kv_heads · D] and values
    /// [T, kv_heads · V] of their segment, before and after them: [T, heads · V], by the formula of
    /// [`attention`](Self::attention). Segments lie one after another; no state is kept.
    ///
    /// # Errors
    /// [`Error::Shape`] if an operand is not of the segments' T tokens and the heads of `spec`,
    /// [`Error::Value`] if its heads are not shared evenly or it has a window.
    fn full_attention(
        &self,
        qkv: [&Self::Tensor; 3],
        segments: &[usize],
        spec: &AttentionSpec,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// The experts each token goes to, and their weights, from router logits [T, E]: ids and
    /// weights [T, K] by the five steps of [`RouterSpec`].
    ///
    /// With a `shared` expert, its slices are the experts from E on, which every token goes to:
    /// [T, K + slices].
    ///
    /// # Errors
    /// [`Error::Router`] if there is no such router of E experts, [`Error::Shape`] if the operands
    /// are not those of T tokens and E experts, [`Error::NotFinite`] for logits, or a pick bias,
    /// that are NaN or infinite, where the device can tell without waiting; elsewhere the weights
    /// are NaN.
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

    /// `up = activation(gate, up)`, value by value, `gate` and `up` [T, I]; without a gate,
    /// `up = activation(up)`. [`Activation`] has the formulas and their sources.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ, [`Error::Device`] if the device does not have the
    /// activation.
    fn activate(
        &self,
        activation: Activation,
        gate: Option<&Self::Tensor>,
        up: &mut Self::Tensor,
    ) -> Result<()>;

    /// `x += scale · y`, both [T, H].
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ.
    fn add(&self, x: &mut Self::Tensor, y: &Self::Tensor, scale: f32) -> Result<()>;

    /// `x[t] += sigmoid(gate[t]) · y[t]` with `x` and `y` [T, H] and `gate` [T, 1]: how Qwen2-MoE
    /// adds its shared expert.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ.
    fn add_gated(&self, x: &mut Self::Tensor, y: &Self::Tensor, gate: &Self::Tensor) -> Result<()>;

    /// `x[t, i] *= function(gate[t, i / (C / G)])` for `x` [T, C] and `gate` [T, G]: a factor for
    /// each of C / G neighbouring values.
    ///
    /// # Errors
    /// [`Error::Shape`] if the rows differ, or C is no multiple of G.
    fn gate(&self, x: &mut Self::Tensor, gate: &Self::Tensor, function: GateFunction)
    -> Result<()>;

    /// `x *= factor`, for `x` of any shape.
    ///
    /// # Errors
    /// [`Error::Device`] if the device failed at an operation before.
    fn scale(&self, x: &mut Self::Tensor, factor: f32) -> Result<()>;

    /// `x = min(max(x, -limit), limit)`, for `x` of any shape.
    ///
    /// # Errors
    /// [`Error::Device`] if the device failed at an operation before.
    fn clamp(&self, x: &mut Self::Tensor, limit: f32) -> Result<()>;
}
