//! The blocks that models are built of, a file each: a block's description, the list of its tensors,
//! the state it keeps and how it is built into a graph.
//!
//! A family turns `config.json` into descriptions and names, and computes nothing. What a family
//! needs beyond these is a field of a description, or another block.

mod attention;
mod context;
mod dense;
mod layer;
mod moe;
mod rope;
mod vision;
pub(crate) mod vision_grid;

pub use self::{
    attention::{Attention, AttentionNames, OutputGate, QkNorm},
    dense::{Dense, DenseNames},
    layer::{BranchNorms, FeedForward, LayerNorms, LayerSpec, Mixer},
    moe::{ExpertNames, ExpertTensors, FusedExperts, Moe, MoeNames, SharedExpert},
    rope::{Position, Rope, RopeScaling},
    vision::{VisionSpec, VisionTokens},
};
pub(crate) use self::{
    context::Context,
    rope::{Angles, RopeDefaults, rope_parameters},
};
