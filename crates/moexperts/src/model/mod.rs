//! Models on a device: a description's blocks, built into a graph over the weights of a checkpoint,
//! and what a forward over it reads and keeps.

mod decoder;
mod fit;
mod inputs;
mod spec;
mod tower;

pub(crate) use self::decoder::{Forward, Memory};
pub use self::{
    decoder::Decoder,
    fit::{Fit, WeightBytes},
    inputs::{Input, LogitsRows},
    spec::{DecoderSpec, ModelSpec},
    tower::VisionTower,
};
