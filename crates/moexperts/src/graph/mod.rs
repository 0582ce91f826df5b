//! A forward as a graph of operations over symbolic rows, and the one executor that runs it.
//!
//! A model is built into a [`Graph`] once, by its blocks with a [`Builder`]. [`Program`] gives each
//! value of a graph a place in a [`Workspace`] and runs the operations in order. A model that is not
//! compiled runs the program of the graph as it was built; compiling changes a copy of the graph and
//! makes another program of it. Nothing here knows of families, blocks or compiling.
//!
//! Start with [`op`], the list of operations; `step` runs one of them.

mod builder;
mod feed;
mod observe;
mod op;
mod places;
mod program;
mod step;
mod workspace;

use moexperts_core::{Device, Operation};

pub(crate) use self::{
    builder::Builder,
    feed::{Feed, Pixels, Run},
    observe::StageKind,
    op::{Cost, Op, Router, RunBy},
    program::Program,
    step::Step,
    workspace::Workspace,
};
pub use self::{
    feed::{VisualFeatures, VisualRows},
    observe::{Observer, Stage},
};

/// What flows between operations: an index into [`Graph::values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Value(pub(crate) usize);

/// How many rows a value has in a forward of T tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rows {
    /// T; of a vision tower, its patches.
    Tokens,
    /// One for each token whose logits are computed.
    Logits,
    /// T divided by this: one for each block of patches.
    Merged(usize),
}

/// The symbols of [`Rows`] in numbers, for one forward or at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowCounts {
    pub(crate) tokens: usize,
    pub(crate) logits: usize,
}

impl Rows {
    pub(crate) fn count(self, counts: RowCounts) -> usize {
        match self {
            Self::Tokens => counts.tokens,
            Self::Logits => counts.logits,
            Self::Merged(tokens) => counts.tokens / tokens,
        }
    }
}

/// The shape of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Activations [rows, cols].
    Tensor { rows: Rows, cols: usize },
    /// K expert ids and weights for each token.
    Routing { experts_per_token: usize },
}

/// An operation in its place.
#[derive(Debug)]
pub(crate) struct Node<D: Device> {
    pub(crate) op: Op<D>,
    /// The modules and steps of the model that it computes.
    pub(crate) parts: Vec<&'static str>,
    /// Values it reads and does not change.
    pub(crate) reads: Vec<Value>,
    /// Values it writes or changes in place.
    pub(crate) writes: Vec<Value>,
    /// The layer, `None` before the first and after the last.
    pub(crate) layer: Option<usize>,
    /// What its first written value is to an observer.
    pub(crate) shows: Option<StageKind>,
}

/// A forward.
#[derive(Debug)]
pub(crate) struct Graph<D: Device> {
    pub(crate) nodes: Vec<Node<D>>,
    pub(crate) values: Vec<Shape>,
    /// What the forward is run for: the logits, or the features of a picture.
    pub(crate) outputs: Vec<Value>,
}

// Weights are shared, so a copy of a graph is small. Derived, these would ask `D` to be `Clone`
// where its associated types are not.
impl<D: Device> Clone for Node<D> {
    fn clone(&self) -> Self {
        Self {
            op: self.op.clone(),
            parts: self.parts.clone(),
            reads: self.reads.clone(),
            writes: self.writes.clone(),
            layer: self.layer,
            shows: self.shows,
        }
    }
}

impl<D: Device> Clone for Graph<D> {
    fn clone(&self) -> Self {
        let (nodes, values) = (self.nodes.clone(), self.values.clone());
        Self { nodes, values, outputs: self.outputs.clone() }
    }
}

impl<D: Device> Graph<D> {
    /// K of a routing: the experts that each token goes to.
    pub(crate) fn experts_per_token(&self, routing: Value) -> usize {
        match self.values[routing.0] {
            Shape::Routing { experts_per_token } => experts_per_token,
            Shape::Tensor { .. } => 0,
        }
    }

    /// Width of a value; of a routing, K.
    pub(crate) fn cols(&self, value: Value) -> usize {
        match self.values[value.0] {
            Shape::Tensor { cols, .. } => cols,
            Shape::Routing { experts_per_token } => experts_per_token,
        }
    }

    /// Lets everything that reads, changes or returns `from` do so with `to`.
    pub(crate) fn replace(&mut self, from: Value, to: Value) {
        let nodes = self.nodes.iter_mut();
        let used = nodes.flat_map(|node| node.reads.iter_mut().chain(&mut node.writes));
        for value in used.chain(&mut self.outputs) {
            if *value == from {
                *value = to;
            }
        }
    }

    /// The operations that a device needs to run it, each once.
    pub(crate) fn operations(&self) -> Vec<Operation> {
        let of_nodes = self.nodes.iter().flat_map(|node| node.op.operations());
        let mut operations: Vec<_> = of_nodes.copied().collect();
        operations.sort_unstable();
        operations.dedup();
        operations
    }
}
