//! Neighbouring operations that a device does in one.

use std::{collections::HashMap, sync::Arc};

use moexperts_core::Device;

use super::shared::JoinedSlices;
use crate::graph::{Graph, Op, Value};

/// Moves each linear layer to the first of the same input, if that is still the same there.
pub(super) fn linears_of_one_input<D: Device>(graph: &mut Graph<D>) {
    let mut index = 0;
    while index < graph.nodes.len() {
        let mut other = index + 1;
        while other < graph.nodes.len() {
            let (before, rest) = graph.nodes.split_at_mut(other);
            let (first, node) = (&mut before[index], &mut rest[0]);
            let [x] = first.reads[..] else { break };
            if node.writes.contains(&x) || node.layer != first.layer {
                break;
            }
            if let (Op::Linear(linears), Op::Linear(others)) = (&mut first.op, &mut node.op)
                && node.reads == [x]
            {
                linears.append(others);
                first.writes.append(&mut node.writes);
                first.parts.append(&mut node.parts);
                graph.nodes.remove(other);
            } else {
                other += 1;
            }
        }
        index += 1;
    }
}

/// The router's linear layer, with the shared expert's gate, and what makes a routing of it.
pub(super) fn routers<D: Device>(graph: &mut Graph<D>, slices: &HashMap<Value, JoinedSlices>) {
    let (mut index, mut routed) = (0, 0);
    while index + 1 < graph.nodes.len() {
        let (before, rest) = graph.nodes.split_at_mut(index + 1);
        let (product, route) = (&mut before[index], &mut rest[0]);
        if let (Op::Linear(linears), Op::Route(router)) = (&mut product.op, &route.op) {
            let routing = route.writes[0];
            let shared = slices.get(&routing);
            let expected: Vec<Value> =
                route.reads.iter().copied().chain(shared.and_then(|shared| shared.gate)).collect();
            // The logits come first; a gate may have been put before them.
            let mut pairs: Vec<_> = product.writes.iter().copied().zip(linears.drain(..)).collect();
            pairs.sort_by_key(|(value, _)| !route.reads.contains(value));
            let (values, ordered): (Vec<Value>, Vec<_>) = pairs.into_iter().unzip();
            *linears = ordered;
            product.writes = values;
            if product.writes.starts_with(&expected) {
                let (linears, router) = (std::mem::take(linears), router.clone());
                let shared_slices = shared.map_or(0, |shared| shared.count);
                routed += usize::from(shared_slices > 0);
                product.op = Op::Router { linears, router, shared_slices };
                product.writes.push(routing);
                product.parts.append(&mut route.parts);
                graph.nodes.remove(index + 1);
            }
        }
        index += 1;
    }
    assert_eq!(routed, slices.len(), "every slice of a shared expert is routed to");
}

/// Sums with the residual stream and the norms of them.
pub(super) fn residuals<D: Device>(graph: &mut Graph<D>) {
    let mut index = 0;
    while index + 1 < graph.nodes.len() {
        let (before, rest) = graph.nodes.split_at_mut(index + 1);
        let (add, norm) = (&mut before[index], &mut rest[0]);
        if let (Op::Add { scale }, Op::RmsNorm { weight, eps }) = (&add.op, &norm.op)
            && norm.reads == add.writes
        {
            add.op = Op::AddRmsNorm { weight: Arc::clone(weight), eps: *eps, scale: *scale };
            add.writes.append(&mut norm.writes);
            add.parts.append(&mut norm.parts);
            graph.nodes.remove(index + 1);
        }
        index += 1;
    }
}

/// Rotations by the same angles, as those of queries and of keys.
pub(super) fn rotations<D: Device>(graph: &mut Graph<D>) {
    let mut index = 0;
    while index + 1 < graph.nodes.len() {
        let (before, rest) = graph.nodes.split_at_mut(index + 1);
        let (first, second) = (&mut before[index], &mut rest[0]);
        let angles = |op: &Op<D>| match op {
            Op::Rope { rope, head_dim, pairing } => Some((*rope, *head_dim, *pairing)),
            _ => None,
        };
        if angles(&first.op).is_some() && angles(&first.op) == angles(&second.op) {
            first.writes.append(&mut second.writes);
            graph.nodes.remove(index + 1);
        } else {
            index += 1;
        }
    }
}
