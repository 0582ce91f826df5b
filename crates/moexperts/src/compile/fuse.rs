//! Neighbouring operations become one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use moexperts_core::{
    Device, DeviceLinear, Expert, Experts, ExpertsBackend, ExpertsSpec, Linear, Weight,
};

use super::ShapeClass;
use crate::{
    graph::{Graph, Node, Op, RunBy, Shape, Value},
    model::LogitsRows,
};

/// Routed experts with the slices of a shared one beside them, and dense layers as one expert: made
/// once for all plans, by the place of the experts or of the gate projection.
#[derive(Debug)]
pub(super) struct JoinedExperts<D: Device>(Mutex<HashMap<usize, Arc<Experts<D::Experts>>>>);

impl<D: Device> Default for JoinedExperts<D> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<D: Device> JoinedExperts<D> {
    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<Experts<D::Experts>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn get(
        &self,
        routed: &Arc<Experts<D::Experts>>,
        shared: &Experts<D::Experts>,
    ) -> Arc<Experts<D::Experts>> {
        let mut joined = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let join = || Arc::new(routed.joined(slices(routed.spec(), shared)));
        Arc::clone(joined.entry(Arc::as_ptr(routed) as usize).or_insert_with(join))
    }

    fn single(
        &self,
        gate_proj: &Arc<DeviceLinear<D>>,
        experts: Experts<D::Experts>,
    ) -> Arc<Experts<D::Experts>> {
        let mut joined = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = Arc::as_ptr(gate_proj) as usize;
        Arc::clone(joined.entry(place).or_insert_with(|| Arc::new(experts)))
    }
}

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
/// - `dense`: what runs dense layers
/// - `backend`: what will run the routed experts, if there are some
pub(super) fn fuse<D: Device>(
    graph: &mut Graph<D>,
    device: &D,
    class: ShapeClass,
    dense: &Arc<dyn ExpertsBackend<D::Experts>>,
    backend: Option<&dyn ExpertsBackend<D::Experts>>,
    joined: &JoinedExperts<D>,
) {
    specialise(graph, class);
    gated_layers(graph, device, dense, joined);
    let slices = match backend {
        Some(backend) => shared_experts(graph, device, class.tokens, backend, joined),
        None => HashMap::new(),
    };
    linears_of_one_input(graph);
    routers(graph, &slices);
    residuals(graph);
    rotations(graph);
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

/// The one layer of a node that is a single linear one without bias, writing `value`.
fn single<D: Device>(node: &Node<D>, value: Value) -> Option<&Arc<DeviceLinear<D>>> {
    match &node.op {
        Op::Linear(linears) if node.writes == [value] => match linears.as_slice() {
            [linear] if linear.bias.is_none() => Some(linear),
            _ => None,
        },
        _ => None,
    }
}

fn gated_layers<D: Device>(
    graph: &mut Graph<D>,
    device: &D,
    dense: &Arc<dyn ExpertsBackend<D::Experts>>,
    joined: &JoinedExperts<D>,
) {
    let mut index = 0;
    while index + 3 < graph.nodes.len() {
        if let Some(GatedLayer { gate_proj, experts, input, out }) =
            GatedLayer::of(&graph.nodes[index..index + 4])
            && !dense.reads_routing_on_host()
            && dense.check(experts.spec(), device.experts_device()).is_ok()
        {
            let layer = graph.nodes[index].layer;
            graph.values.push(Shape::Routing { experts_per_token: 1 });
            let routing = Value(graph.values.len() - 1);
            let node = |op, parts: &[&'static str], reads, writes| Node {
                op,
                parts: parts.to_vec(),
                reads,
                writes,
                layer,
                shows: None,
            };
            let parts = ["gate_proj", "up_proj", "act_fn", "down_proj"];
            let experts = joined.single(&gate_proj, experts);
            let op = Op::Experts { experts, run_by: RunBy::Fixed(Arc::clone(dense)) };
            let nodes = [
                node(Op::RouteAll, &["all tokens"], vec![], vec![routing]),
                node(op, &parts, vec![input, routing], vec![out]),
            ];
            graph.nodes.splice(index..index + 4, nodes);
        }
        index += 1;
    }
}

/// Gate and up projection, activation, down projection, as one expert.
struct GatedLayer<D: Device> {
    gate_proj: Arc<DeviceLinear<D>>,
    experts: Experts<D::Experts>,
    input: Value,
    out: Value,
}

impl<D: Device> GatedLayer<D> {
    /// What four neighbours are, if they are that.
    fn of(nodes: &[Node<D>]) -> Option<Self> {
        let [gate, up, act, down] = nodes else { return None };
        let Op::Activate(activation) = act.op else { return None };
        let ([gate_value], [up_value], [out]) = (&act.reads[..], &act.writes[..], &down.writes[..])
        else {
            return None;
        };
        let gate_proj = single(gate, *gate_value)?;
        let (up_proj, down_proj) = (single(up, *up_value)?, single(down, *out)?);
        let weights = [&gate_proj.weight, &up_proj.weight, &down_proj.weight];
        let (format, intermediate, hidden) =
            (weights[0].format(), weights[0].rows(), weights[0].cols());
        let in_turn = gate.reads == up.reads && down.reads == [*up_value];
        if !in_turn || weights.iter().any(|weight| weight.format() != format) {
            return None;
        }
        let spec = ExpertsSpec::gated_silu(hidden, intermediate, 1, format);
        let bare = |weight: &D::Matrix| Linear { weight: weight.clone(), bias: None };
        let [first, up_proj, down_proj] = weights.map(bare);
        let expert = Expert { gate_proj: Some(first), up_proj, down_proj };
        Some(Self {
            gate_proj: Arc::clone(gate_proj),
            experts: Experts::resident(spec.with_activation(activation), vec![expert]).ok()?,
            input: gate.reads[0],
            out: *out,
        })
    }
}

/// Joins shared experts to the routed ones before them, where their backend lets the tokens of an
/// expert pass its weights together: the slices that became experts, by the routing they need, and
/// the gate on them.
fn shared_experts<D: Device>(
    graph: &mut Graph<D>,
    device: &D,
    tokens: usize,
    backend: &dyn ExpertsBackend<D::Experts>,
    joined: &JoinedExperts<D>,
) -> HashMap<Value, (usize, Option<Value>)> {
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
        let experts = joined.get(routed, one);
        slices.insert(routing, (count, gate));
        let node = &mut graph.nodes[index];
        node.op = Op::Experts { experts, run_by: RunBy::Chosen };
        node.parts.push("shared_expert");
        if let Shape::Routing { experts_per_token } = &mut graph.values[routing.0] {
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
fn slices<D: Device>(
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

/// Moves each linear layer to the first of the same input, if that is still the same there.
fn linears_of_one_input<D: Device>(graph: &mut Graph<D>) {
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
fn routers<D: Device>(graph: &mut Graph<D>, slices: &HashMap<Value, (usize, Option<Value>)>) {
    let (mut index, mut routed) = (0, 0);
    while index + 1 < graph.nodes.len() {
        let (before, rest) = graph.nodes.split_at_mut(index + 1);
        let (product, route) = (&mut before[index], &mut rest[0]);
        if let (Op::Linear(linears), Op::Route(router)) = (&mut product.op, &route.op) {
            let routing = route.writes[0];
            let shared = slices.get(&routing);
            let expected: Vec<Value> =
                route.reads.iter().copied().chain(shared.and_then(|(_, gate)| *gate)).collect();
            // The logits come first; a gate may have been put before them.
            let mut pairs: Vec<_> = product.writes.iter().copied().zip(linears.drain(..)).collect();
            pairs.sort_by_key(|(value, _)| !route.reads.contains(value));
            let (values, ordered): (Vec<Value>, Vec<_>) = pairs.into_iter().unzip();
            *linears = ordered;
            product.writes = values;
            if product.writes.starts_with(&expected) {
                let (linears, router) = (std::mem::take(linears), router.clone());
                let shared_slices = shared.map_or(0, |(count, _)| *count);
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

fn residuals<D: Device>(graph: &mut Graph<D>) {
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

fn rotations<D: Device>(graph: &mut Graph<D>) {
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
