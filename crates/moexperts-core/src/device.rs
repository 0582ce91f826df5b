//! A device is about twenty operations.
//!
//! Model code is written once over [`Device`]. A processor, a GPU, a recorder that keeps the list
//! of operations as a plan, or a group of machines each implement it; nothing above this trait
//! knows which.

use std::{fmt::Debug, ops::Range, sync::Arc};

use crate::{
    Activation, DeviceKind, ExpertsBackend, Knob, Linear, Matrix, RouterSpec, Scratch, Weight,
    error::Result,
};

/// The tokens of one sequence in a [`Batch`]: positions `start .. start + tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Which sequence of the key/value cache.
    pub sequence: usize,
    /// Position of the first token; everything cached from there on is forgotten.
    pub start: usize,
    /// How many tokens.
    pub tokens: usize,
}

/// Which rows of a forward belong to which sequence: spans one after another, no padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    spans: Vec<Span>,
}

impl Batch {
    /// Rows in the order of the spans.
    pub fn new(spans: Vec<Span>) -> Self {
        Self { spans }
    }

    /// Leaves no span.
    pub fn clear(&mut self) {
        self.spans.clear();
    }

    /// Adds a span, whose rows follow the others'.
    pub fn push(&mut self, span: Span) {
        self.spans.push(span);
    }

    /// The spans.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// T: tokens of all spans.
    pub fn tokens(&self) -> usize {
        self.spans.iter().map(|span| span.tokens).sum()
    }

    /// Each span with the rows it takes.
    pub fn rows(&self) -> impl Iterator<Item = (Span, Range<usize>)> {
        self.spans.iter().scan(0, |next, &span| {
            let rows = *next..*next + span.tokens;
            *next = rows.end;
            Some((span, rows))
        })
    }
}

/// What keys and values a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvCacheSpec {
    /// Layers.
    pub layers: usize,
    /// Key/value heads of a layer.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Sequences that grow independently.
    pub sequences: usize,
}

/// Attention of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSpec {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key/value heads; each serves `heads / kv_heads` neighbouring query heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on the scores before the softmax.
    pub scale: f32,
    /// If set, a token sees itself and the `sliding_window - 1` before it.
    pub sliding_window: Option<usize>,
}

/// A shared expert as slices of the width of a routed one, beside them.
#[derive(Debug)]
pub struct SharedSlices<'a, D: Device> {
    /// How many.
    pub slices: usize,
    /// [T, 1]: each slice's weight is its sigmoid; without it, 1.
    pub gate: Option<&'a D::Tensor>,
}

/// What an operation writes, for a caller that has no room for it.
///
/// # Errors
/// As the operation.
pub fn made<T: Default, E>(write: impl FnOnce(&mut T) -> Result<(), E>) -> Result<T, E> {
    let mut out = T::default();
    write(&mut out)?;
    Ok(out)
}

/// The arguments of one [`Device::attention`].
#[derive(Debug)]
pub struct AttentionCall<'a, D: Device> {
    /// Queries [T, heads · D], keys and values [T, kv_heads · D].
    pub qkv: [&'a D::Tensor; 3],
    /// What was read before, and now.
    pub cache: &'a mut D::KvCache,
    /// Whose keys and values they are.
    pub layer: usize,
    /// Which sequence each token is of, and which place it has there.
    pub batch: &'a Batch,
    /// What is computed.
    pub spec: &'a AttentionSpec,
    /// The caller's buffers, kept from call to call.
    pub scratch: &'a mut Scratch,
}

/// A linear layer on device `D`.
pub type DeviceLinear<D> = Linear<<D as Device>::Matrix, <D as Device>::Vector>;

/// A place where models run: where weights and activations live, and the operations on them.
///
/// Activations are `[rows, cols]` in f32, a row a token. Every operation is deterministic: the
/// same inputs give the same bits, whatever the number of threads.
///
/// An operation writes its result into `out`, which takes the result's shape; room it has already
/// is used again, so that a loop over the same shapes allocates nothing. What an operation needs
/// besides is kept in the caller's [`Scratch`]. [`made`] gives an operation a result of its own.
pub trait Device: Debug + Clone + Send + Sync + Sized + 'static {
    /// What messages call it: `CPU`.
    const NAME: &'static str;
    /// What kind of machine it is; decides which backend decodes.
    const KIND: DeviceKind;
    /// Whether it captures the work of a plan that runs again and again, and then launches it as
    /// one.
    const CAPTURES_GRAPHS: bool = false;

    /// A weight [out, in]; clones share its elements.
    type Matrix: Weight;
    /// A short vector in f32: a bias, a norm's weight.
    type Vector: Debug + Clone + Send + Sync;
    /// Activations [rows, cols] in f32; by default [0, 0], which holds no memory.
    type Tensor: Debug + Default + Send + Sync;
    /// `top_k_index` [T, K] and `top_k_weights` [T, K]; by default none, which holds no memory.
    type Routing: Debug + Default + Send + Sync;
    /// Keys and values of all layers and sequences.
    type KvCache: Debug + Send;
    /// What the device keeps of a plan that runs again and again; by default nothing.
    type Recording: Debug + Default + Send;

    /// The backends that come with the device, in the order users see them.
    fn built_in_experts() -> Vec<Arc<dyn ExpertsBackend<Self>>>;

    /// The settings of the device's kernels that [`with_knob`](Self::with_knob) turns: what
    /// autotuning tries.
    fn knobs(&self) -> &'static [Knob];

    /// The same device with knob `index` at a value, one of its values; results stay within the
    /// tolerance.
    #[must_use]
    fn with_knob(&self, index: usize, value: usize) -> Self;

    /// What the measured settings depend on beside the shapes: the processor, the instruction set,
    /// the threads.
    fn fingerprint(&self) -> String;

    /// The kernel that multiplies so many rows with weights like these: `avx2 dot`.
    fn kernel_name(&self, weight: &Self::Matrix, rows: usize) -> String;

    /// A copy of a weight where the device reads it fastest, or `None` if it lies there.
    ///
    /// # Errors
    /// If the device has no room for it.
    fn resident_copy(&self, weight: &Self::Matrix) -> Result<Option<Self::Matrix>>;

    /// Runs `work` where the device's operations start fastest (inside its thread pool).
    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R;

    /// [`enter`](Self::enter) for the many operations of a plan, one after another, at the end of
    /// which something is read. With a `recording`, they are those of the runs before on the same
    /// memory: a device may capture what it is asked for, and do all of it at once.
    fn enter_plan<R: Send>(
        &self,
        recording: Option<&mut Self::Recording>,
        work: impl FnOnce() -> R + Send,
    ) -> R {
        let _ = recording;
        self.enter(work)
    }

    /// Waits until everything asked for so far is done, for whoever reads a clock: a device may do
    /// its work after the operation has returned. Reading a tensor waits by itself.
    ///
    /// By default nothing is left to be done.
    ///
    /// # Errors
    /// If the device failed at an operation before.
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    /// Brings a weight to the device; where the device reads host memory, the view itself.
    ///
    /// # Errors
    /// If the device has no room for it.
    fn load_matrix(&self, weight: Matrix) -> Result<Self::Matrix>;

    /// Brings a vector to the device.
    ///
    /// # Errors
    /// If the device has no room for it.
    fn load_vector(&self, values: Vec<f32>) -> Result<Self::Vector>;

    /// Activations that can take a shape of up to so many values without allocating.
    ///
    /// # Errors
    /// If the device has no room for it.
    fn new_tensor(&self, values: usize) -> Result<Self::Tensor>;

    /// Gives activations the shape [rows, cols]; the values are unspecified.
    ///
    /// # Errors
    /// If the device has no room for it.
    fn reset_tensor(&self, x: &mut Self::Tensor, rows: usize, cols: usize) -> Result<()>;

    /// Brings activations [rows, cols] to the device.
    ///
    /// # Errors
    /// If `values` does not hold `rows * cols` values or the device has no room.
    fn load_tensor(
        &self,
        rows: usize,
        cols: usize,
        values: &[f32],
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// Reads activations back, row-major.
    ///
    /// # Errors
    /// If the device failed at an operation before.
    fn read_tensor(&self, tensor: &Self::Tensor, out: &mut Vec<f32>) -> Result<()>;

    /// Room for the routing of up to so many (token, expert) pairs.
    ///
    /// # Errors
    /// If the device has no room for it.
    fn new_routing(&self, pairs: usize) -> Result<Self::Routing>;

    /// Brings a routing to the device.
    ///
    /// # Errors
    /// If the device has no room for it.
    fn load_routing(&self, routing: crate::Routing) -> Result<Self::Routing>;

    /// Reads a routing back.
    ///
    /// # Errors
    /// If the device failed at an operation before.
    fn read_routing(&self, routing: &Self::Routing) -> Result<crate::Routing>;

    /// An empty cache.
    ///
    /// # Errors
    /// If the device has no room for it.
    fn new_kv_cache(&self, spec: KvCacheSpec) -> Result<Self::KvCache>;

    /// Room for so many positions of a sequence in all layers: up to there nothing is allocated.
    ///
    /// # Errors
    /// If the device has no room for it.
    fn reserve_positions(
        &self,
        cache: &mut Self::KvCache,
        sequence: usize,
        positions: usize,
    ) -> Result<()>;

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

    /// `x += y`, then `out = rms_norm(x)`.
    ///
    /// # Errors
    /// As [`add`](Self::add) and [`rms_norm`](Self::rms_norm).
    fn add_rms_norm(
        &self,
        x: &mut Self::Tensor,
        y: &Self::Tensor,
        weight: &Self::Vector,
        eps: f32,
        out: &mut Self::Tensor,
    ) -> Result<()> {
        self.add(x, y)?;
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
    /// given; value i of the first R values of a head is paired with value i + R / 2.
    ///
    /// # Errors
    /// If the shapes differ.
    fn rope(
        &self,
        x: &mut Self::Tensor,
        head_dim: usize,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
    ) -> Result<()>;

    /// Puts the keys and values of a layer into the cache; the causal attention of the queries over
    /// it: [T, heads · D].
    ///
    /// # Errors
    /// If the shapes differ or a span starts beyond what its sequence holds.
    fn attention(&self, call: AttentionCall<'_, Self>, out: &mut Self::Tensor) -> Result<()>;

    /// The attention of the queries [T, heads · D] over the keys and values [T, kv_heads · D] of
    /// their own segment, before and after them: [T, heads · D]. Segments lie one after another;
    /// nothing is cached.
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

    /// The experts each token goes to, from router logits [T, E].
    ///
    /// With a `shared` expert, its slices are the experts from E on, which every token goes to:
    /// [T, K + slices].
    ///
    /// # Errors
    /// [`Error::NotFinite`](crate::Error::NotFinite) for logits that are no numbers, where the
    /// device can tell without waiting.
    fn route(
        &self,
        logits: &Self::Tensor,
        spec: &RouterSpec,
        shared: Option<SharedSlices<'_, Self>>,
        out: &mut Self::Routing,
    ) -> Result<()>;

    /// Sends each of `tokens` tokens to expert 0, with weight 1: [T, 1].
    ///
    /// # Errors
    /// If the device has no room for it.
    fn route_all(&self, tokens: usize, out: &mut Self::Routing) -> Result<()>;

    /// `up = activation(gate, up)`, elementwise.
    ///
    /// # Errors
    /// If the shapes differ.
    fn activate(
        &self,
        activation: Activation,
        gate: Option<&Self::Tensor>,
        up: &mut Self::Tensor,
    ) -> Result<()>;

    /// `x += y`.
    ///
    /// # Errors
    /// If the shapes differ.
    fn add(&self, x: &mut Self::Tensor, y: &Self::Tensor) -> Result<()>;

    /// `x[t] += sigmoid(gate[t]) · y[t]` with `gate` [T, 1].
    ///
    /// # Errors
    /// If the shapes differ.
    fn add_gated(&self, x: &mut Self::Tensor, y: &Self::Tensor, gate: &Self::Tensor) -> Result<()>;

    /// Limits every value to `-limit ..= limit`.
    ///
    /// # Errors
    /// If the device failed at an operation before.
    fn clamp(&self, x: &mut Self::Tensor, limit: f32) -> Result<()>;
}
