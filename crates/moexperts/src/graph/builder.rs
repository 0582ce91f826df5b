//! Builds a graph, operation by operation.

use std::sync::Arc;

use moexperts_core::{
    Activation, AttentionSpec, Device, DeviceLinear, Experts, GateFunction, RopePairing, Weight,
};

use super::{
    nodes::{Graph, Node},
    observe::StageKind,
    op::{Op, Router, RunBy},
    values::{Value, ValueRows, ValueShape},
};

/// A graph in the making. A method adds the operation of its name; `name` is the module of the
/// weights, for people who read what a plan does.
#[derive(Debug)]
pub(crate) struct Builder<D: Device> {
    graph: Graph<D>,
    layer: Option<usize>,
}

impl<D: Device> Builder<D> {
    pub(crate) fn new() -> Self {
        let graph = Graph { nodes: Vec::new(), values: Vec::new(), outputs: Vec::new() };
        Self { graph, layer: None }
    }

    /// What follows belongs to this layer, or to none.
    pub(crate) fn set_layer(&mut self, layer: Option<usize>) {
        self.layer = layer;
    }

    /// The graph, which is run for `outputs`.
    pub(crate) fn finish(mut self, outputs: Vec<Value>) -> Graph<D> {
        self.graph.outputs = outputs;
        self.graph
    }

    fn value(&mut self, shape: ValueShape) -> Value {
        self.graph.values.push(shape);
        Value(self.graph.values.len() - 1)
    }

    fn tensor(&mut self, rows: ValueRows, cols: usize) -> Value {
        self.value(ValueShape::Tensor { rows, cols })
    }

    /// A value of the rows of `x`.
    fn like(&mut self, x: Value, cols: usize) -> Value {
        let rows = self.rows(x);
        self.tensor(rows, cols)
    }

    fn rows(&self, x: Value) -> ValueRows {
        match self.graph.values[x.0] {
            ValueShape::Tensor { rows, .. } => rows,
            ValueShape::Routing { .. } => ValueRows::Tokens,
        }
    }

    /// Width of a value.
    pub(crate) fn cols(&self, x: Value) -> usize {
        self.graph.cols(x)
    }

    fn push(&mut self, op: Op<D>, part: &'static str, reads: &[Value], writes: &[Value]) {
        let (reads, writes) = (reads.to_vec(), writes.to_vec());
        let (parts, layer) = (vec![part], self.layer);
        self.graph.nodes.push(Node { op, parts, reads, writes, layer, shows: None });
    }

    /// Shows what the last operation wrote to observers.
    pub(crate) fn show(&mut self, stage: StageKind) {
        if let Some(node) = self.graph.nodes.last_mut() {
            node.shows = Some(stage);
        }
    }

    pub(crate) fn embed(&mut self, table: Arc<DeviceLinear<D>>) -> Value {
        let out = self.tensor(ValueRows::Tokens, table.weight.cols());
        self.push(Op::Embed(table), "embed_tokens", &[], &[out]);
        out
    }

    pub(crate) fn pixels(&mut self, patch_len: usize) -> Value {
        let out = self.tensor(ValueRows::Tokens, patch_len);
        self.push(Op::Pixels, "pixel_values", &[], &[out]);
        out
    }

    pub(crate) fn embedding_bag(&mut self, name: &'static str, table: Arc<D::Matrix>) -> Value {
        let out = self.tensor(ValueRows::Tokens, table.cols());
        self.push(Op::EmbeddingBag(table), name, &[], &[out]);
        out
    }

    pub(crate) fn put_visuals(&mut self, x: Value) {
        self.push(Op::PutVisuals, "visual", &[], &[x]);
    }

    pub(crate) fn add_deepstack(&mut self, x: Value, index: usize) {
        self.push(Op::AddDeepstack { index }, "deepstack", &[], &[x]);
    }

    /// `x` in rows of `cols`; `x` is used up. `rows` of the result are those of its new width.
    pub(crate) fn reshape(&mut self, x: Value, rows: ValueRows, cols: usize) -> Value {
        let out = self.tensor(rows, cols);
        self.push(Op::Reshape { cols }, "reshape", &[x], &[out]);
        out
    }

    pub(crate) fn layer_norm(
        &mut self,
        name: &'static str,
        x: Value,
        weight: Arc<D::Vector>,
        bias: Arc<D::Vector>,
        eps: f32,
    ) -> Value {
        let out = self.like(x, self.cols(x));
        self.push(Op::LayerNorm { weight, bias, eps }, name, &[x], &[out]);
        out
    }

    pub(crate) fn rms_norm(
        &mut self,
        name: &'static str,
        x: Value,
        weight: Arc<D::Vector>,
        eps: f32,
    ) -> Value {
        let out = self.like(x, self.cols(x));
        self.push(Op::RmsNorm { weight, eps }, name, &[x], &[out]);
        out
    }

    pub(crate) fn linear(
        &mut self,
        name: &'static str,
        x: Value,
        linear: Arc<DeviceLinear<D>>,
    ) -> Value {
        let [out] = self.linears(name, x, [linear]);
        out
    }

    /// Linear layers of one input as one product.
    pub(crate) fn linears<const N: usize>(
        &mut self,
        name: &'static str,
        x: Value,
        linears: [Arc<DeviceLinear<D>>; N],
    ) -> [Value; N] {
        let outs = linears.each_ref().map(|linear| self.like(x, linear.weight.rows()));
        self.push(Op::Linear(linears.into()), name, &[x], &outs);
        outs
    }

    pub(crate) fn clamp(&mut self, name: &'static str, x: Value, limit: f32) {
        self.push(Op::Clamp(limit), name, &[], &[x]);
    }

    /// `x *= factor`; nothing for a factor of 1.
    pub(crate) fn scale(&mut self, name: &'static str, x: Value, factor: f32) {
        if factor != 1.0 {
            self.push(Op::Scale(factor), name, &[], &[x]);
        }
    }

    pub(crate) fn rope(&mut self, x: Value, rope: usize, head_dim: usize, pairing: RopePairing) {
        self.push(Op::Rope { rope, head_dim, pairing }, "rope", &[], &[x]);
    }

    pub(crate) fn attention(
        &mut self,
        [q, k, v]: [Value; 3],
        layer: usize,
        spec: AttentionSpec,
        sinks: Option<Arc<D::Vector>>,
    ) -> Value {
        let out = self.like(q, spec.heads * spec.value_dim);
        self.push(Op::Attention { spec, layer, sinks }, "attention", &[q, k, v], &[out]);
        out
    }

    pub(crate) fn full_attention(&mut self, [q, k, v]: [Value; 3], spec: AttentionSpec) -> Value {
        let out = self.like(q, spec.heads * spec.value_dim);
        self.push(Op::FullAttention(spec), "attention", &[q, k, v], &[out]);
        out
    }

    pub(crate) fn gate(&mut self, name: &'static str, x: Value, gate: Value, by: GateFunction) {
        self.push(Op::Gate(by), name, &[gate], &[x]);
    }

    /// `x += scale · y`.
    pub(crate) fn add(&mut self, name: &'static str, x: Value, y: Value, scale: f32) {
        self.push(Op::Add { scale }, name, &[y], &[x]);
    }

    pub(crate) fn route(&mut self, name: &'static str, logits: Value, router: Router<D>) -> Value {
        let out = self.value(ValueShape::Routing { experts_per_token: router.spec.top_k });
        self.push(Op::Route(router), name, &[logits], &[out]);
        out
    }

    pub(crate) fn experts(
        &mut self,
        experts: Arc<Experts<D::Experts>>,
        x: Value,
        routing: Value,
    ) -> Value {
        let out = self.like(x, experts.spec().hidden);
        let op = Op::Experts { experts, run_by: RunBy::Chosen };
        self.push(op, "experts", &[x, routing], &[out]);
        out
    }

    /// `up = activation(gate, up)`.
    pub(crate) fn activate(&mut self, activation: Activation, gate: Option<Value>, up: Value) {
        let reads: Vec<Value> = gate.into_iter().collect();
        self.push(Op::Activate(activation), "act_fn", &reads, &[up]);
    }

    /// `x += sigmoid(gate) · y`.
    pub(crate) fn add_gated(&mut self, name: &'static str, x: Value, y: Value, gate: Value) {
        self.push(Op::AddGated, name, &[y, gate], &[x]);
    }

    pub(crate) fn select_logits_rows(&mut self, x: Value) -> Value {
        let out = self.tensor(ValueRows::Logits, self.cols(x));
        self.push(Op::SelectLogitsRows, "last tokens", &[x], &[out]);
        out
    }
}
