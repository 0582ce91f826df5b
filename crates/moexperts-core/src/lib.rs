//! The vocabulary of moexperts: weights, experts, routing, devices, backends.
//!
//! A Mixture-of-Experts layer sends each token through a few of its experts and adds what they
//! return. *Which* products these are is described here ([`ExpertsSpec`], [`Experts`],
//! [`Routing`]); *how* they are executed is a backend ([`ExpertsBackend`]), found by name in the
//! [`ExpertsInterface`]; *where* is a [`Device`].
//!
//! This crate holds no kernel, reads no file and contains no `unsafe`; of the environment it reads the
//! variables that other crates list ([`Variable`]). Start with [`ExpertsBackend`] to write a backend,
//! with [`Device`] to write a device. Each operation of a device is a file in `operations/`: its
//! description, the check of its arguments ([`checks`]) and its formula ([`reference`](mod@reference)).

#![forbid(unsafe_code)]

mod cache;
pub mod checks;
mod device;
mod environment;
mod error;
mod experts;
mod operations;
pub mod positions;
pub mod reference;
mod routing;
mod shapes;
mod state;
mod tensor;
mod weights;

pub use cache::{Scratch, TypedCache};
pub use device::{
    Batch, Device, DeviceKind, DeviceLinear, Execution, Knob, Memory, Operations, Rows, Span,
    Tuning, made,
};
pub use environment::{Variable, VariableValue};
pub use error::{Error, Result};
pub use experts::{
    BackendSupport, Expert, Experts, ExpertsBackend, ExpertsCall, ExpertsInterface, ExpertsSpec,
    backend_support,
};
pub use operations::{
    Activation, AttentionCall, AttentionSpec, ExpertGroups, GateFunction, Operation, PickOn,
    RopePairing, RouteOperands, RouterSpec, Score, SharedSlices,
};
pub use routing::Routing;
pub use state::StateSpec;
pub use tensor::Tensor;
pub use weights::{
    DType, Element, Elements, Linear, Matrix, MatrixLayout, Storage, Weight, WeightFormat,
};
