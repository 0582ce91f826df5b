//! Which values of a graph share a place in memory.

use std::collections::HashMap;

use moexperts_core::Device;

use super::{
    nodes::Graph,
    values::{RowCounts, Value, ValueRows, ValueShape},
    workspace::PlaceSize,
};

/// Which place of a workspace each value takes.
pub(super) struct Places {
    /// The place of each value, counted in those of its kind.
    pub(super) of: HashMap<Value, usize>,
    pub(super) tensors: Vec<PlaceSize>,
    pub(super) routings: Vec<PlaceSize>,
}

impl Places {
    /// A place for every value of a graph; values that are not needed at the same time share one.
    ///
    /// - `counts`: a forward whose workspace is to be small
    pub(super) fn new<D: Device>(graph: &Graph<D>, counts: RowCounts) -> Self {
        let mut last_use = HashMap::new();
        for (index, node) in graph.nodes.iter().enumerate() {
            for value in node.reads.iter().chain(&node.writes) {
                last_use.insert(*value, index);
            }
        }
        for output in &graph.outputs {
            last_use.insert(*output, graph.nodes.len());
        }
        let mut of = HashMap::new();
        let mut pools = [Pool::new(counts), Pool::new(counts)];
        let kind = |value: Value| match graph.values[value.0] {
            ValueShape::Tensor { .. } => 0,
            ValueShape::Routing { .. } => 1,
        };
        for (index, node) in graph.nodes.iter().enumerate() {
            for &value in &node.writes {
                let size = size(graph.values[value.0]);
                of.entry(value).or_insert_with(|| pools[kind(value)].take(size));
            }
            let mut used: Vec<Value> = node.reads.iter().chain(&node.writes).copied().collect();
            used.sort_unstable();
            used.dedup();
            for value in used.into_iter().filter(|value| last_use[value] == index) {
                pools[kind(value)].free.push(of[&value]);
            }
        }
        let [tensors, routings] = pools.map(|pool| pool.sizes);
        Self { of, tensors, routings }
    }
}

/// What a value of a shape needs.
pub(super) fn size(shape: ValueShape) -> PlaceSize {
    let tokens = |per_token| PlaceSize { per_token, per_logits_row: 0 };
    match shape {
        ValueShape::Tensor { rows: ValueRows::Tokens, cols } => tokens(cols),
        ValueShape::Tensor { rows: ValueRows::Logits, cols } => {
            PlaceSize { per_token: 0, per_logits_row: cols }
        }
        ValueShape::Tensor { rows: ValueRows::Merged(merged), cols } => {
            tokens(cols.div_ceil(merged))
        }
        ValueShape::Routing { experts_per_token } => tokens(experts_per_token),
    }
}

/// Places of one kind.
struct Pool {
    counts: RowCounts,
    sizes: Vec<PlaceSize>,
    free: Vec<usize>,
}

impl Pool {
    fn new(counts: RowCounts) -> Self {
        Self { counts, sizes: Vec::new(), free: Vec::new() }
    }

    /// The free place that fits best, grown if it has to, or a new one.
    fn take(&mut self, size: PlaceSize) -> usize {
        let needed = size.values(self.counts);
        let waste = |&place: &usize| {
            let held = self.sizes[place].values(self.counts);
            // A place that is too small costs what it has to grow by. One that is too large costs
            // nothing more than it does already.
            if held >= needed { (0, held - needed) } else { (1, needed - held) }
        };
        let best = (0..self.free.len()).min_by_key(|&index| waste(&self.free[index]));
        match best {
            Some(index) => {
                let place = self.free.swap_remove(index);
                let held = &mut self.sizes[place];
                held.per_token = held.per_token.max(size.per_token);
                held.per_logits_row = held.per_logits_row.max(size.per_logits_row);
                place
            }
            None => {
                self.sizes.push(size);
                self.sizes.len() - 1
            }
        }
    }
}
