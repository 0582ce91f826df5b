//! Experts layers, and the backends that run them.

mod backend;
mod layer;
mod registry;

pub use backend::{ExpertsBackend, ExpertsCall};
pub use layer::{Activation, Expert, Experts, ExpertsSpec, Linear};
pub use registry::{DeviceKind, ExpertsInterface, decode_experts_implementation};
