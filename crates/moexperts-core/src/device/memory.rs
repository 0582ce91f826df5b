//! The memory of a device: weights, activations, states, and transfers.

use std::fmt::Debug;

use crate::{
    error::Result,
    routing::Routing,
    state::StateSpec,
    weights::{Linear, Matrix, Weight, WeightFormat},
};

/// A linear layer on device `D`.
pub type DeviceLinear<D> = Linear<<D as Memory>::Matrix, <D as Memory>::Vector>;

/// The memory of a device: weights, activations, routings and states, and the transfers to it and
/// from it.
pub trait Memory: Sized {
    /// A weight [out, in]; clones share its elements.
    type Matrix: Weight;
    /// A short vector in f32: a bias, a norm's weight.
    type Vector: Debug + Clone + Send + Sync;
    /// Activations [rows, cols] in f32; by default [0, 0], which holds no memory.
    type Tensor: Debug + Default + Send + Sync;
    /// `top_k_index` [T, K] and `top_k_weights` [T, K]; by default none, which holds no memory.
    type Routing: Debug + Default + Send + Sync;
    /// The states of all layers for all sequences.
    type State: Debug + Send;

    /// Whether the device has kernels for weights of this format.
    fn has_format(&self, format: WeightFormat) -> bool;

    /// Brings a weight to the device. Where the device reads host memory, it is the view itself.
    ///
    /// # Errors
    /// If the device has no kernels for its format or no memory for it.
    fn load_matrix(&self, weight: Matrix) -> Result<Self::Matrix>;

    /// Brings a vector to the device.
    ///
    /// # Errors
    /// If the device has no memory for it.
    fn load_vector(&self, values: Vec<f32>) -> Result<Self::Vector>;

    /// Activations that can take a shape of up to `values` values without allocating.
    ///
    /// # Errors
    /// If the device has no memory for it.
    fn new_tensor(&self, values: usize) -> Result<Self::Tensor>;

    /// Gives activations the shape [rows, cols]; the values are unspecified.
    ///
    /// # Errors
    /// If the device has no memory for it.
    fn reset_tensor(&self, x: &mut Self::Tensor, rows: usize, cols: usize) -> Result<()>;

    /// Brings activations [rows, cols] to the device.
    ///
    /// # Errors
    /// If `values` does not hold `rows * cols` values or the device has no memory for them.
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

    /// Memory for the routing of up to `pairs` (token, expert) pairs.
    ///
    /// # Errors
    /// If the device has no memory for it.
    fn new_routing(&self, pairs: usize) -> Result<Self::Routing>;

    /// Brings a routing to the device.
    ///
    /// # Errors
    /// If the device has no memory for it.
    fn load_routing(&self, routing: Routing) -> Result<Self::Routing>;

    /// Reads a routing back.
    ///
    /// # Errors
    /// If the device failed at an operation before.
    fn read_routing(&self, routing: &Self::Routing) -> Result<Routing>;

    /// The states of these layers for a number of sequences that grow independently, all still
    /// empty.
    ///
    /// # Errors
    /// If the device does not have such a state or has no memory for it.
    fn new_state(&self, layers: &[StateSpec], sequences: usize) -> Result<Self::State>;

    /// Allocates for that many positions of a sequence in all layers: up to there, no operation
    /// allocates. A layer with a window allocates for what it holds at a time.
    ///
    /// # Errors
    /// If there is no such sequence or no memory for it.
    fn reserve_positions(
        &self,
        state: &mut Self::State,
        sequence: usize,
        positions: usize,
    ) -> Result<()>;

    /// Whether a forward may go on at `position` of a sequence, and forget everything from there
    /// on: whether every layer still holds all that a token there sees. True at the end of the
    /// sequence and at position 0; false for a sequence that does not exist.
    fn can_cut(&self, state: &Self::State, sequence: usize, position: usize) -> bool;

    /// Bytes the states hold.
    fn state_bytes(&self, state: &Self::State) -> usize;
}
