//! The words every other crate of moexperts speaks.
//!
//! A Mixture-of-Experts layer sends each token through a few of its experts and adds what they
//! return. *Which* products these are is described here ([`ExpertsSpec`], [`Experts`],
//! [`Routing`]); *how* they are executed is a backend ([`ExpertsBackend`]), found by name in the
//! [`ExpertsInterface`]; *where* is a [`Device`].
//!
//! This crate holds no kernel, reads no file and contains no `unsafe`. Start with [`ExpertsBackend`]
//! to write a backend, with [`Device`] to write a device.

#![forbid(unsafe_code)]

mod cache;
pub mod checks;
mod device;
mod error;
mod experts;
mod operations;
pub mod positions;
pub mod reference;
mod routing;
mod state;
mod tensor;
mod weights;

pub use cache::{Scratch, TypedCache};
pub use device::{
    AttentionCall, AttentionSpec, Batch, Device, DeviceLinear, Execution, GateFunction, Knob,
    Memory, Operation, Operations, RopePairing, Rows, SharedSlices, Span, Tuning, made,
};
pub use error::{Error, Result};
pub use experts::{
    Activation, DeviceKind, Expert, Experts, ExpertsBackend, ExpertsCall, ExpertsInterface,
    ExpertsSpec, Linear, decode_experts_implementation,
};
pub use operations::{ExpertGroups, PickOn, RouteOperands, RouterSpec, Score};
pub use routing::Routing;
pub use state::StateSpec;
pub use tensor::Tensor;
pub use weights::{
    DType, Element, Elements, Matrix, MatrixLayout, Storage, Weight, WeightFormat,
};
