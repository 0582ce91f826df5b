//! The words every other crate of moexperts speaks.
//!
//! A Mixture-of-Experts layer sends each token through a few of its experts and adds what they
//! return. *Which* products these are is described here ([`ExpertsSpec`], [`Experts`],
//! [`Routing`]); *how* they are executed is a backend ([`ExpertsBackend`]), found by name in the
//! [`ExpertsInterface`]; *where* is a [`Device`].
//!
//! This crate holds no kernel, reads no file and contains no `unsafe`; of the environment it reads the
//! variables that other crates list ([`Variable`]). Start with [`ExpertsBackend`]
//! to write a backend, with [`Device`] to write a device.

#![forbid(unsafe_code)]

mod backend;
mod cache;
pub mod checks;
mod device;
mod dtype;
mod environment;
mod error;
mod experts;
mod format;
mod interface;
mod matrix;
pub mod positions;
pub mod reference;
mod routing;
mod state;
mod support;
mod tensor;

pub use backend::{ExpertsBackend, ExpertsCall};
pub use cache::{Scratch, TypedCache};
pub use device::{
    AttentionCall, AttentionSpec, Batch, Device, DeviceLinear, Execution, GateFunction, Knob,
    Memory, Operation, Operations, RopePairing, Rows, SharedSlices, Span, Tuning, made,
};
pub use dtype::DType;
pub use environment::{Variable, VariableValue};
pub use error::{Error, Result};
pub use experts::{Activation, Expert, Experts, ExpertsSpec, Linear};
pub use format::WeightFormat;
pub use interface::{DeviceKind, ExpertsInterface, decode_experts_implementation};
pub use matrix::{Element, Elements, Matrix, MatrixLayout, Storage, Weight};
pub use routing::{ExpertGroups, PickOn, RouteOperands, RouterSpec, Routing, Score};
pub use state::StateSpec;
pub use support::{BackendSupport, backend_support};
pub use tensor::Tensor;
