//! What operations cost, as far as it follows from shapes.

use moexperts_core::{Device, Weight};

use super::{
    nodes::{Graph, Node},
    op::Op,
    values::{RowCounts, Value, ValueShape},
};

/// Bytes of weights that are read, and floating point operations on them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cost {
    pub(crate) bytes: f64,
    pub(crate) flops: f64,
}

impl<D: Device> Graph<D> {
    /// What a node costs in a forward. For experts it is the cost of those that are hit if all routed
    /// ones are equally likely.
    pub(crate) fn cost(&self, node: &Node<D>, counts: RowCounts) -> Cost {
        match &node.op {
            Op::Embed(table) => {
                let weight = &table.weight;
                let bytes = weight.format().size_bytes(counts.tokens, weight.cols());
                Cost { bytes: bytes as f64, flops: 0.0 }
            }
            Op::Linear(linears) | Op::Router { linears, .. } => {
                let rows = self.rows(node, counts);
                let mut cost = Cost::default();
                for linear in linears {
                    let weight = &linear.weight;
                    cost.bytes += weight.size_bytes() as f64;
                    cost.flops += 2.0 * (rows * weight.rows() * weight.cols()) as f64;
                }
                cost
            }
            Op::Experts { experts, .. } => {
                let spec = experts.spec();
                let chosen = self.experts_per_token(node.reads[1]);
                let shared = self.shared_slices(node.reads[1]);
                let routed = spec.experts.saturating_sub(shared) as f64;
                let missed = 1.0 - chosen.saturating_sub(shared) as f64 / routed.max(1.0);
                let missed = missed.max(0.0).powi(counts.tokens as i32);
                let hit = shared as f64 + routed * (1.0 - missed);
                Cost {
                    bytes: hit * spec.bytes_per_expert() as f64,
                    flops: 2.0 * (counts.tokens * chosen * spec.weights_per_expert()) as f64,
                }
            }
            _ => Cost::default(),
        }
    }

    /// Rows that a node computes.
    pub(crate) fn rows(&self, node: &Node<D>, counts: RowCounts) -> usize {
        match node.writes.first().map(|value| self.values[value.0]) {
            Some(ValueShape::Tensor { rows, .. }) => rows.count(counts),
            _ => counts.tokens,
        }
    }

    /// How many experts of a routing are slices of a shared expert, to which every token goes.
    fn shared_slices(&self, routing: Value) -> usize {
        let slices = self.nodes.iter().find_map(|node| match node.op {
            Op::Router { shared_slices, .. } if node.writes.contains(&routing) => {
                Some(shared_slices)
            }
            _ => None,
        });
        slices.unwrap_or(0)
    }
}
