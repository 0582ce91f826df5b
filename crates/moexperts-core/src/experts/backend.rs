//! The seam between a model and the way its experts are executed.

use std::fmt::Debug;

use crate::{
    cache::Scratch,
    device::memory::Memory,
    error::Result,
    experts::{check, layer::Experts, spec::ExpertsSpec},
    routing::Routing,
    tensor::Tensor,
};

/// One way to compute `out[t] = Σ_k w[t,k] · expert[ids[t,k]](x[t])` on device `D`.
///
/// Implement it, [register](crate::ExpertsInterface::register) it, and its name works wherever a
/// built-in name does.
pub trait ExpertsBackend<D: Memory>: Debug + Send + Sync {
    /// The name as users type it: lower-case letters, digits, `_` and `-`.
    fn name(&self) -> &str;

    /// Whether the backend can run experts of this description on this device.
    ///
    /// # Errors
    /// [`Error::Backend`](crate::Error::Backend) with the reason.
    fn check(&self, spec: &ExpertsSpec, device: &D) -> Result<()>;

    /// Computes the layer into `out` [T, H], which is overwritten.
    ///
    /// The result repeats bit for bit and does not depend on the number of threads.
    ///
    /// # Errors
    /// If the shapes disagree, or the device fails.
    fn forward(&self, call: ExpertsCall<'_, D>, out: &mut D::Tensor) -> Result<()>;

    /// Whether [`forward`](Self::forward) waits for the routing and reads it on the host, for
    /// example to see which experts were hit. A compiled plan breaks there, and compiling with
    /// `fullgraph` fails.
    ///
    /// True by default.
    fn reads_routing_on_host(&self) -> bool {
        true
    }

    /// Whether the tokens of an expert are multiplied with its weights together. A compiled plan
    /// then computes a shared expert beside the routed ones.
    ///
    /// False by default.
    fn groups_tokens(&self) -> bool {
        false
    }
}

/// The arguments of one [`ExpertsBackend::forward`].
#[derive(Debug)]
pub struct ExpertsCall<'a, D: Memory> {
    /// The device to compute on.
    pub device: &'a D,
    /// The layer's experts.
    pub experts: &'a Experts<D>,
    /// hidden_states [T, H].
    pub x: &'a D::Tensor,
    /// top_k_index [T, K] and top_k_weights [T, K].
    pub routing: &'a D::Routing,
    /// The caller's buffers, kept from call to call.
    pub scratch: &'a mut Scratch,
}

impl<D: Memory<Tensor = Tensor, Routing = Routing>> ExpertsCall<'_, D> {
    /// Whether `x`, the routing and `out` agree with each other and with the experts.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) that names the tensor.
    pub fn check_shapes(&self, out: &Tensor) -> Result<()> {
        let routing = [self.routing.tokens(), self.routing.top_k()];
        check::call(self.experts.spec(), self.x.shape(), routing, out.shape())
    }
}
