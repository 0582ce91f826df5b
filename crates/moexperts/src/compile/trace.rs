//! The operations of a forward, recorded instead of run.

use std::sync::Arc;

use moexperts_core::{
    Activation, AttentionSpec, Device, DeviceLinear, Experts, ExpertsBackend, RouterSpec, Weight,
};

use super::{
    class::ShapeClass,
    graph::{Graph, Node, Op, Rows, Shape, Value},
};
use crate::{
    error::Result,
    model::{Decoder, LogitsRows, Ops, Stage},
};

/// The graph of a decoder's forward on shapes of a class.
///
/// # Errors
/// None: recording computes nothing.
pub(super) fn trace<D: Device>(
    decoder: &Decoder<D>,
    backend: &Arc<dyn ExpertsBackend<D>>,
    class: ShapeClass,
) -> Result<Graph<D>> {
    let mut recorder =
        Recorder { nodes: Vec::new(), values: Vec::new(), layer: None, backend, class };
    let output = decoder.trace(&mut recorder)?;
    Ok(Graph { nodes: recorder.nodes, values: recorder.values, output })
}

struct Recorder<'a, D: Device> {
    nodes: Vec<Node<D>>,
    values: Vec<Shape>,
    layer: Option<usize>,
    backend: &'a Arc<dyn ExpertsBackend<D>>,
    class: ShapeClass,
}

impl<D: Device> Recorder<'_, D> {
    fn value(&mut self, shape: Shape) -> Value {
        self.values.push(shape);
        Value(self.values.len() - 1)
    }

    /// A value of as many rows as `x`.
    fn like(&mut self, x: Value, cols: Option<usize>) -> Value {
        let shape = match (self.values[x.0], cols) {
            (Shape::Tensor { rows, .. }, Some(cols)) => Shape::Tensor { rows, cols },
            (shape, _) => shape,
        };
        self.value(shape)
    }

    fn push(&mut self, op: Op<D>, part: &'static str, reads: &[Value], writes: &[Value]) {
        let (reads, writes) = (reads.to_vec(), writes.to_vec());
        self.nodes.push(Node { op, parts: vec![part], reads, writes, layer: self.layer });
    }
}

impl<D: Device> Ops<D> for Recorder<'_, D> {
    type Tensor = Value;
    type Routing = Value;

    fn enter_layer(&mut self, layer: usize) {
        self.layer = Some(layer);
    }

    fn leave_layers(&mut self) {
        self.layer = None;
    }

    fn embed(&mut self, table: &Arc<DeviceLinear<D>>) -> Result<Value> {
        let out = self.value(Shape::Tensor { rows: Rows::Tokens, cols: table.weight.cols() });
        self.push(Op::Embed(Arc::clone(table)), "embed_tokens", &[], &[out]);
        Ok(out)
    }

    fn put_visuals(&mut self, x: &mut Value) -> Result<()> {
        if self.class.visuals.is_some() {
            self.push(Op::PutVisuals, "visual", &[], &[*x]);
        }
        Ok(())
    }

    fn add_deepstack(&mut self, x: &mut Value) -> Result<()> {
        if self.layer.is_some() && self.layer < self.class.visuals {
            self.push(Op::AddDeepstack, "deepstack", &[], &[*x]);
        }
        Ok(())
    }

    fn rms_norm(
        &mut self,
        name: &'static str,
        x: &Value,
        weight: &Arc<D::Vector>,
        eps: f32,
    ) -> Result<Value> {
        let out = self.like(*x, None);
        self.push(Op::RmsNorm { weight: Arc::clone(weight), eps }, name, &[*x], &[out]);
        Ok(out)
    }

    fn linear(
        &mut self,
        name: &'static str,
        x: &Value,
        linear: &Arc<DeviceLinear<D>>,
    ) -> Result<Value> {
        let out = self.like(*x, Some(linear.weight.rows()));
        self.push(Op::Linear(vec![Arc::clone(linear)]), name, &[*x], &[out]);
        Ok(out)
    }

    fn clamp(&mut self, x: &mut Value, limit: f32) -> Result<()> {
        self.push(Op::Clamp(limit), "clip_qkv", &[], &[*x]);
        Ok(())
    }

    fn rope(&mut self, x: &mut Value, head_dim: usize) -> Result<()> {
        self.push(Op::Rope { head_dim }, "rope", &[], &[*x]);
        Ok(())
    }

    fn attention(&mut self, [q, k, v]: [&Value; 3], spec: &AttentionSpec) -> Result<Value> {
        let out = self.like(*q, Some(spec.heads * spec.head_dim));
        self.push(Op::Attention(*spec), "attention", &[*q, *k, *v], &[out]);
        Ok(out)
    }

    fn add(&mut self, x: &mut Value, y: &Value) -> Result<()> {
        self.push(Op::Add, "residual", &[*y], &[*x]);
        Ok(())
    }

    fn route(&mut self, logits: &Value, spec: &RouterSpec) -> Result<Value> {
        let out = self.value(Shape::Routing { experts_per_token: spec.top_k });
        self.push(Op::Route(*spec), "softmax, top_k", &[*logits], &[out]);
        Ok(out)
    }

    fn experts(&mut self, experts: &Arc<Experts<D>>, x: &Value, routing: &Value) -> Result<Value> {
        let out = self.like(*x, Some(experts.spec().hidden));
        let (experts, backend) = (Arc::clone(experts), Arc::clone(self.backend));
        self.push(Op::Experts { experts, backend }, "experts", &[*x, *routing], &[out]);
        Ok(out)
    }

    fn activate(&mut self, activation: Activation, gate: &Value, up: &mut Value) -> Result<()> {
        self.push(Op::Activate(activation), "act_fn", &[*gate], &[*up]);
        Ok(())
    }

    fn add_gated(&mut self, x: &mut Value, y: &Value, gate: &Value) -> Result<()> {
        self.push(Op::AddGated, "shared_expert", &[*y, *gate], &[*x]);
        Ok(())
    }

    fn select_logits_rows(&mut self, x: Value) -> Result<Value> {
        let Shape::Tensor { cols, .. } = self.values[x.0] else { return Ok(x) };
        if self.class.logits == LogitsRows::All {
            return Ok(x);
        }
        let out = self.value(Shape::Tensor { rows: Rows::Logits, cols });
        self.push(Op::SelectLogitsRows, "last tokens", &[x], &[out]);
        Ok(out)
    }

    fn show(&mut self, _stage: for<'a> fn(&'a D::Tensor) -> Stage<'a, D>, _x: &Value) {}

    fn show_routing(&mut self, _routing: &Value) {}
}
