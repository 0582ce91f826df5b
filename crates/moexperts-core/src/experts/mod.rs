//! Experts layers, and the backends that run them.

pub(crate) mod backend;
pub(crate) mod check;
mod expert;
pub(crate) mod formula;
mod layer;
mod registry;
pub(crate) mod spec;
mod support;

pub use backend::{ExpertsBackend, ExpertsCall};
pub use expert::Expert;
pub use layer::Experts;
pub use registry::ExpertsInterface;
pub use spec::ExpertsSpec;
pub use support::{BackendSupport, backend_support};
