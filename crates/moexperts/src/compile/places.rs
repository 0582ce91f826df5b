//! Which values of a graph share a place in memory.

use std::collections::HashMap;

use moexperts_core::Device;

use super::{
    class::ShapeClass,
    graph::{Graph, Rows, Shape, Value},
};

/// Which place of a workspace each value takes.
pub(super) struct Places {
    /// The place of each value, counted in those of its kind.
    pub(super) slots: HashMap<Value, usize>,
    /// The most values of each tensor.
    pub(super) tensors: Vec<usize>,
    /// The most pairs of each routing.
    pub(super) routings: Vec<usize>,
}

impl Places {
    /// A place for every value of a graph; values that are not needed at the same time share one.
    pub(super) fn of<D: Device>(graph: &Graph<D>, class: ShapeClass) -> Self {
        let mut last_use = HashMap::new();
        for (index, node) in graph.nodes.iter().enumerate() {
            for value in node.reads.iter().chain(&node.writes) {
                last_use.insert(*value, index);
            }
        }
        last_use.insert(graph.output, graph.nodes.len());
        let mut slots = HashMap::new();
        let mut pools = [Pool::default(), Pool::default()];
        let kind = |value: Value| match graph.values[value.0] {
            Shape::Tensor { .. } => 0,
            Shape::Routing { .. } => 1,
        };
        for (index, node) in graph.nodes.iter().enumerate() {
            for &value in &node.writes {
                let size = size(graph.values[value.0], class);
                slots.entry(value).or_insert_with(|| pools[kind(value)].take(size));
            }
            let mut used: Vec<Value> = node.reads.iter().chain(&node.writes).copied().collect();
            used.sort_unstable();
            used.dedup();
            for value in used.into_iter().filter(|value| last_use[value] == index) {
                pools[kind(value)].free.push(slots[&value]);
            }
        }
        let [tensors, routings] = pools.map(|pool| pool.sizes);
        Self { slots, tensors, routings }
    }
}

/// The most values, or pairs, of a shape.
fn size(shape: Shape, class: ShapeClass) -> usize {
    match shape {
        Shape::Tensor { rows: Rows::Tokens, cols } => class.tokens * cols,
        Shape::Tensor { rows: Rows::Logits, cols } => class.logits_rows * cols,
        Shape::Routing { experts_per_token } => class.tokens * experts_per_token,
    }
}

/// Places of one kind.
#[derive(Default)]
struct Pool {
    sizes: Vec<usize>,
    free: Vec<usize>,
}

impl Pool {
    /// The free place that fits best, grown if it has to, or a new one.
    fn take(&mut self, size: usize) -> usize {
        let waste = |&place: &usize| {
            let held = self.sizes[place];
            // One that is too small costs what it has to grow by.
            if held >= size { (0, held - size) } else { (1, size - held) }
        };
        let best = (0..self.free.len()).min_by_key(|&index| waste(&self.free[index]));
        match best {
            Some(index) => {
                let place = self.free.swap_remove(index);
                self.sizes[place] = self.sizes[place].max(size);
                place
            }
            None => {
                self.sizes.push(size);
                self.sizes.len() - 1
            }
        }
    }
}
