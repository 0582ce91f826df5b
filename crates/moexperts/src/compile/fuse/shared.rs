//! Shared experts as slices beside the routed ones.

use std::{collections::HashMap, sync::Arc};

use moexperts_core::{Device, Expert, Experts, ExpertsBackend, ExpertsSpec, Linear, Weight};

use super::joined::JoinedExperts;
use crate::graph::{Graph, Node, Op, RunBy, Value, ValueShape};

/// The slices of a shared expert that became experts of a routed layer.
pub(super) struct JoinedSlices {
    pub(super) count: usize,
    /// The gate on them, if there is one.
    pub(super) gate: Option<Value>,
}

/// Joins shared experts to the routed ones before them, where their backend lets the tokens of an
/// expert pass its weights together. Returns the slices, by the routing that they need.
pub(super) fn shared_experts<D: Device>(
    graph: &mut Graph<D>,
    device: &D,
    tokens: usize,
    backend: &dyn ExpertsBackend<D::Experts>,
    joined: &JoinedExperts<D>,
) -> HashMap<Value, JoinedSlices> {
    let mut slices = HashMap::new();
    if backend.reads_routing_on_host() || tokens > 1 && !backend.groups_tokens() {
        return slices;
    }
    let mut index = 0;
    while index < graph.nodes.len() {
        index += 1;
        let Some(shared) = SharedExpert::of(&graph.nodes[index - 1..]) else { continue };
        let SharedExpert { routed, one, routing, gate, nodes } = shared;
        let can_join = can_be_cut(routed.spec(), one.spec())
            && backend
                .check(&with_slices(routed.spec(), one.spec()), device.experts_device())
                .is_ok();
        if !can_join {
            continue;
        }
        let index = index - 1;
        let count = one.spec().intermediate / routed.spec().intermediate;
        let join = || routed.joined(slices_of(routed.spec(), one));
        let experts = joined.with_shared(routed, join);
        slices.insert(routing, JoinedSlices { count, gate });
        let node = &mut graph.nodes[index];
        node.op = Op::Experts { experts, run_by: RunBy::Chosen };
        node.parts.push("shared_expert");
        if let ValueShape::Routing { experts_per_token } = &mut graph.values[routing.0] {
            *experts_per_token += count;
        }
        // The gate is needed before the routing.
        let gate_node = gate.map(|_| graph.nodes.remove(index + 3));
        graph.nodes.drain(index + 1..index + nodes - usize::from(gate.is_some()));
        if let Some(gate) = gate_node {
            let route = graph.nodes[..index].iter().rposition(|node| node.writes == [routing]);
            let route = route.expect("the routing is made before it is used");
            graph.nodes.insert(route, gate);
        }
    }
    slices
}

/// Routed experts and the shared expert that is added to them.
struct SharedExpert<'g, D: Device> {
    routed: &'g Arc<Experts<D::Experts>>,
    /// The shared one, as a layer of one expert.
    one: &'g Experts<D::Experts>,
    routing: Value,
    gate: Option<Value>,
    /// How many nodes these are.
    nodes: usize,
}

impl<'g, D: Device> SharedExpert<'g, D> {
    /// What some nodes begin with, if it is that: experts; all tokens, shared expert; its gate, if
    /// it has one; the sum.
    fn of(nodes: &'g [Node<D>]) -> Option<Self> {
        let [routed, all, shared, rest @ ..] = nodes else { return None };
        let (
            Op::Experts { experts, run_by: RunBy::Chosen },
            Op::RouteAll,
            Op::Experts { experts: one, run_by: RunBy::Fixed(_) },
        ) = (&routed.op, &all.op, &shared.op)
        else {
            return None;
        };
        if routed.reads[0] != shared.reads[0] {
            return None;
        }
        let (gate, sum) = match rest {
            [gate, sum, ..] if matches!(&gate.op, Op::Linear(gates) if gates.len() == 1) => {
                let is_gate = gate.reads == [routed.reads[0]] && matches!(sum.op, Op::AddGated);
                is_gate.then_some((Some(gate.writes[0]), sum))?
            }
            [sum, ..] => matches!(sum.op, Op::Add { scale: 1.0 }).then_some((None, sum))?,
            [] => return None,
        };
        let summed: Vec<Value> = [shared.writes[0]].into_iter().chain(gate).collect();
        let is_sum = sum.writes == routed.writes && sum.reads == summed;
        is_sum.then_some(Self {
            routed: experts,
            one,
            routing: routed.reads[1],
            gate,
            nodes: 4 + usize::from(gate.is_some()),
        })
    }
}

/// Routed experts with the slices of a shared one.
fn with_slices(routed: &ExpertsSpec, shared: &ExpertsSpec) -> ExpertsSpec {
    let slices = shared.intermediate / routed.intermediate;
    routed.with_experts(routed.experts + slices)
}

/// Whether a shared expert is a whole number of routed ones.
fn can_be_cut(routed: &ExpertsSpec, shared: &ExpertsSpec) -> bool {
    let mut slice = shared.with_experts(routed.experts);
    slice.intermediate = routed.intermediate;
    slice == *routed
        && !routed.bias
        && routed.intermediate > 0
        && shared.intermediate.is_multiple_of(routed.intermediate)
}

/// A shared expert as experts of the width of the routed ones: their sum is the same.
fn slices_of<D: Device>(
    routed: &ExpertsSpec,
    shared: &Experts<D>,
) -> Vec<Expert<D::Matrix, D::Vector>> {
    let (width, hidden) = (routed.intermediate, routed.hidden);
    let Expert { gate_proj, up_proj, down_proj } = shared.expert(0);
    let bare = |weight| Linear { weight, bias: None };
    (0..shared.spec().intermediate / width)
        .map(|slice| {
            let inner = slice * width..(slice + 1) * width;
            let rows = |linear: &Linear<D::Matrix, D::Vector>| {
                bare(linear.weight.block(inner.clone(), 0..hidden))
            };
            Expert {
                gate_proj: gate_proj.as_ref().map(rows),
                up_proj: rows(up_proj),
                down_proj: bare(down_proj.weight.block(0..hidden, inner.clone())),
            }
        })
        .collect()
}
