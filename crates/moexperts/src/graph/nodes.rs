//! Operations in their order: a graph.

use moexperts_core::{Device, Operation};

use super::{
    observe::StageKind,
    op::Op,
    values::{Value, ValueShape},
};

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
    pub(crate) values: Vec<ValueShape>,
    /// What the forward is run for: the logits, or the features of a picture.
    pub(crate) outputs: Vec<Value>,
}

// Weights are shared, so a copy of a graph is small. Derived, these would demand that `D` is `Clone`,
// which says nothing of its associated types.
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
            ValueShape::Routing { experts_per_token } => experts_per_token,
            ValueShape::Tensor { .. } => 0,
        }
    }

    /// Width of a value; of a routing, K.
    pub(crate) fn cols(&self, value: Value) -> usize {
        match self.values[value.0] {
            ValueShape::Tensor { cols, .. } => cols,
            ValueShape::Routing { experts_per_token } => experts_per_token,
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
