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

mod backend;
mod cache;
pub mod checks;
mod device;
mod dtype;
mod error;
mod experts;
mod interface;
mod knob;
mod matrix;
pub mod reference;
mod routing;
mod tensor;

pub use backend::{ExpertsBackend, ExpertsCall};
pub use cache::{Scratch, TypedCache};
pub use device::{
    AttentionCall, AttentionSpec, Batch, Device, DeviceLinear, KvCacheSpec, SharedSlices, Span,
    made,
};
pub use dtype::DType;
pub use error::{Error, Result};
pub use experts::{Activation, Expert, Experts, ExpertsSpec, GateUpLayout, Linear, Orientation};
pub use interface::{DeviceKind, ExpertsInterface, decode_experts_implementation};
pub use knob::{Knob, Rows};
pub use matrix::{Element, Elements, Matrix, MatrixLayout, Storage, Weight};
pub use routing::{RouterSpec, Routing};
pub use tensor::Tensor;
