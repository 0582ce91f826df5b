//! Neighbouring operations become one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use moexperts_core::{
    Device, DeviceLinear, Expert, Experts, ExpertsBackend, ExpertsSpec, Linear, Weight,
};

use super::graph::{Graph, Node, Op, Shape, Value};

/// Routed experts with the slices of a shared one beside them, and dense layers as one expert: made
/// once for all plans, by the place of the experts or of the gate projection.
#[derive(Debug)]
pub(super) struct JoinedExperts<D: Device>(Mutex<HashMap<usize, Arc<Experts<D>>>>);

impl<D: Device> Default for JoinedExperts<D> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<D: Device> JoinedExperts<D> {
    /// All there are.
    pub(super) fn all(&self) -> Vec<Arc<Experts<D>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn get(&self, routed: &Arc<Experts<D>>, shared: &Experts<D>) -> Arc<Experts<D>> {
        let mut joined = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let join = || Arc::new(routed.joined(slices(routed.spec(), shared)));
        Arc::clone(joined.entry(Arc::as_ptr(routed) as usize).or_insert_with(join))
    }

    fn single(&self, gate_proj: &Arc<DeviceLinear<D>>, experts: Experts<D>) -> Arc<Experts<D>> {
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
pub(super) fn fuse<D: Device>(
    graph: &mut Graph<D>,
    device: &D,
    tokens: usize,
    dense: &Arc<dyn ExpertsBackend<D>>,
    joined: &JoinedExperts<D>,
) {
    gated_layers(graph, device, dense, joined);
    let slices = shared_experts(graph, device, tokens, joined);
    linears_of_one_input(graph);
    routers(graph, &slices);
    residuals(graph);
    rotations(graph);
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
    dense: &Arc<dyn ExpertsBackend<D>>,
    joined: &JoinedExperts<D>,
) {
    let mut index = 0;
    while index + 3 < graph.nodes.len() {
        if let Some(GatedLayer { gate_proj, experts, input, out }) =
            GatedLayer::of(&graph.nodes[index..index + 4])
            && !dense.reads_routing_on_host()
            && dense.check(experts.spec(), device).is_ok()
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
            };
            let parts = ["gate_proj", "up_proj", "act_fn", "down_proj"];
            let experts = joined.single(&gate_proj, experts);
            let op = Op::Experts { experts, backend: Arc::clone(dense) };
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
    experts: Experts<D>,
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
        let (dtype, intermediate, hidden) =
            (weights[0].dtype(), weights[0].rows(), weights[0].cols());
        let in_turn = gate.reads == up.reads && down.reads == [*up_value];
        if !in_turn || weights.iter().any(|weight| weight.dtype() != dtype) {
            return None;
        }
        let spec = ExpertsSpec::gated_silu(hidden, intermediate, 1, dtype);
        let bare = |weight: &D::Matrix| Linear { weight: weight.clone(), bias: None };
        let [first, up_proj, down_proj] = weights.map(bare);
        let expert = Expert { gate_proj: Some(first), up_proj, down_proj };
        Some(Self {
            gate_proj: Arc::clone(gate_proj),
            experts: Experts::resident(ExpertsSpec { activation, ..spec }, vec![expert]).ok()?,
            input: gate.reads[0],
            out: *out,
        })
    }
}

/// Joins shared experts to the routed ones before them, where their backend lets the tokens of an
/// expert pass its weights together: how many slices became experts, by the routing they need.
fn shared_experts<D: Device>(
    graph: &mut Graph<D>,
    device: &D,
    tokens: usize,
    joined: &JoinedExperts<D>,
) -> HashMap<Value, (usize, Value)> {
    let mut slices = HashMap::new();
    let mut index = 0;
    while index + 4 < graph.nodes.len() {
        // experts; all tokens, shared expert; its gate; the sum.
        let [routed, all, shared, gate, sum] = &graph.nodes[index..index + 5] else { break };
        if let Op::Experts { experts, backend } = &routed.op
            && let (Op::RouteAll, Op::Experts { experts: one, .. }) = (&all.op, &shared.op)
            && let (Op::Linear(gates), Op::AddGated) = (&gate.op, &sum.op)
            && routed.reads[0] == shared.reads[0]
            && gate.reads == [routed.reads[0]]
            && sum.writes == routed.writes
            && sum.reads == [shared.writes[0], gate.writes[0]]
            && gates.len() == 1
            && !backend.reads_routing_on_host()
            && (tokens == 1 || backend.groups_tokens())
            && can_be_cut(experts.spec(), one.spec())
            && backend.check(&with_slices(experts.spec(), one.spec()), device).is_ok()
        {
            let (routing, gate_value) = (routed.reads[1], gate.writes[0]);
            let count = one.spec().intermediate / experts.spec().intermediate;
            let op =
                Op::Experts { experts: joined.get(experts, one), backend: Arc::clone(backend) };
            slices.insert(routing, (count, gate_value));
            graph.nodes[index].op = op;
            graph.nodes[index].parts.push("shared_expert");
            if let Shape::Routing { experts_per_token } = &mut graph.values[routing.0] {
                *experts_per_token += count;
            }
            // The gate is needed before the routing.
            let gate = graph.nodes.remove(index + 3);
            graph.nodes.drain(index + 1..index + 3);
            graph.nodes.remove(index + 1);
            let route = graph.nodes[..index].iter().rposition(|node| node.writes == [routing]);
            let route = route.expect("the routing is made before it is used");
            graph.nodes.insert(route, gate);
        }
        index += 1;
    }
    slices
}

/// Routed experts with the slices of a shared one.
fn with_slices(routed: &ExpertsSpec, shared: &ExpertsSpec) -> ExpertsSpec {
    let slices = shared.intermediate / routed.intermediate;
    ExpertsSpec { experts: routed.experts + slices, ..*routed }
}

/// Whether a shared expert is a whole number of routed ones.
fn can_be_cut(routed: &ExpertsSpec, shared: &ExpertsSpec) -> bool {
    let slice = ExpertsSpec {
        intermediate: routed.intermediate,
        experts: routed.experts,
        gate_up: routed.gate_up,
        ..*shared
    };
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
fn routers<D: Device>(graph: &mut Graph<D>, slices: &HashMap<Value, (usize, Value)>) {
    let (mut index, mut routed) = (0, 0);
    while index + 1 < graph.nodes.len() {
        let (before, rest) = graph.nodes.split_at_mut(index + 1);
        let (product, route) = (&mut before[index], &mut rest[0]);
        if let (Op::Linear(linears), Op::Route(spec)) = (&mut product.op, &route.op) {
            let routing = route.writes[0];
            let shared = slices.get(&routing);
            let expected: Vec<Value> =
                route.reads.iter().copied().chain(shared.map(|(_, gate)| *gate)).collect();
            // The logits come first; a gate may have been put before them.
            let mut pairs: Vec<_> = product.writes.iter().copied().zip(linears.drain(..)).collect();
            pairs.sort_by_key(|(value, _)| !route.reads.contains(value));
            let (values, ordered): (Vec<Value>, Vec<_>) = pairs.into_iter().unzip();
            *linears = ordered;
            product.writes = values;
            if product.writes.starts_with(&expected) {
                let (linears, spec) = (std::mem::take(linears), *spec);
                let shared_slices = shared.map_or(0, |(count, _)| *count);
                routed += usize::from(shared_slices > 0);
                product.op = Op::Router { linears, spec, shared_slices };
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
        if let (Op::Add, Op::RmsNorm { weight, eps }) = (&add.op, &norm.op)
            && norm.reads == add.writes
        {
            add.op = Op::AddRmsNorm { weight: Arc::clone(weight), eps: *eps };
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
        match (&first.op, &second.op) {
            (Op::Rope { head_dim }, Op::Rope { head_dim: other }) if head_dim == other => {
                first.writes.append(&mut second.writes);
                graph.nodes.remove(index + 1);
            }
            _ => index += 1,
        }
    }
}
