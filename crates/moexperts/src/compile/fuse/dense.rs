//! Gated dense layers as experts layers of one expert.

use std::sync::Arc;

use moexperts_core::{
    Device, DeviceLinear, Expert, Experts, ExpertsBackend, ExpertsSpec, Linear, Weight,
};

use super::joined::JoinedExperts;
use crate::graph::{Graph, Node, Op, RunBy, Value, ValueShape};

/// Replaces gated dense layers by experts layers of one expert, where `dense` runs them.
pub(super) fn gated_layers<D: Device>(
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
            graph.values.push(ValueShape::Routing { experts_per_token: 1 });
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
            let experts = joined.dense(&gate_proj, experts);
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
