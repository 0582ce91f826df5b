//! Neighbouring operations become one.

mod dense;
mod joined;
mod neighbours;
mod shared;

use std::{collections::HashMap, sync::Arc};

use moexperts_core::{Device, ExpertsBackend};

pub(super) use self::joined::JoinedExperts;
use super::class::ShapeClass;
use crate::{
    graph::{Graph, Node, Op},
    model::LogitsRows,
};

/// Fuses what a device can do in one operation:
///
/// - a gated dense layer (gate and up projection, activation, down projection) is an experts layer
///   of one expert, whose backend does these in two passes over the weights;
/// - a shared expert is cut into experts of the width of the routed ones, which every token chooses:
///   one grouped product for both;
/// - linear layers of one input are one grouped product (q, k and v; the router and the gate of a
///   shared expert);
/// - the router, its softmax and its top-k;
/// - adding to the residual stream and the norm after it;
/// - the rotation of queries and keys.
///
/// - `dense_backend`: what runs dense layers
/// - `backend`: what will run the routed experts, if there are some
pub(super) fn fuse<D: Device>(
    graph: &mut Graph<D>,
    device: &D,
    class: ShapeClass,
    dense_backend: &Arc<dyn ExpertsBackend<D::Experts>>,
    backend: Option<&dyn ExpertsBackend<D::Experts>>,
    joined: &JoinedExperts<D>,
) {
    specialise(graph, class);
    dense::gated_layers(graph, device, dense_backend, joined);
    let slices = match backend {
        Some(backend) => shared::shared_experts(graph, device, class.tokens, backend, joined),
        None => HashMap::new(),
    };
    neighbours::linears_of_one_input(graph);
    neighbours::routers(graph, &slices);
    neighbours::residuals(graph);
    neighbours::rotations(graph);
}

/// Leaves out what has no effect on the shapes of a class.
fn specialise<D: Device>(graph: &mut Graph<D>, class: ShapeClass) {
    graph.nodes.retain(|node| match node.op {
        Op::PutVisuals => class.visuals.is_some(),
        Op::AddDeepstack { index } => class.visuals.is_some_and(|layers| index < layers),
        _ => true,
    });
    let selects = |node: &Node<D>| matches!(node.op, Op::SelectLogitsRows);
    if class.logits == LogitsRows::All
        && let Some(place) = graph.nodes.iter().position(selects)
    {
        let node = graph.nodes.remove(place);
        // The rows of logits are then those of the tokens.
        let (from, to) = (node.writes[0], node.reads[0]);
        graph.replace(from, to);
    }
}
