//! A forward as a graph of operations over symbolic rows, and the one executor that runs it.
//!
//! A model is built into a [`Graph`] once, by its blocks with a [`Builder`]. [`Program`] gives each
//! value of a graph a place in a [`Workspace`] and runs the operations in order. A model that is not
//! compiled runs the program of the graph as it was built; compiling changes a copy of the graph and
//! makes another program of it. Nothing here knows of families, blocks or compiling.
//!
//! Start with [`op`], the list of operations; `step` runs one of them.

mod builder;
mod cost;
mod feed;
mod nodes;
mod observe;
mod op;
mod places;
mod program;
mod step;
mod values;
mod workspace;

pub(crate) use self::{
    builder::Builder,
    feed::{Feed, Pixels, Run},
    nodes::{Graph, Node},
    observe::StageKind,
    op::{Op, Router, RunBy},
    program::Program,
    step::Step,
    values::{RowCounts, Value, ValueRows, ValueShape},
    workspace::Workspace,
};
pub use self::{
    feed::{VisualFeatures, VisualRows},
    observe::{Observer, Stage},
};
