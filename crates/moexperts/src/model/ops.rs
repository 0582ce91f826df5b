//! What a forward is written in: operations that run at once, or are recorded to be run later.

use std::sync::Arc;

use moexperts_core::{
    Activation, AttentionCall, AttentionSpec, Device, DeviceLinear, Experts, ExpertsCall,
    RouterSpec, made,
};

use super::decoder::{Forward, Stage};
use crate::error::Result;

/// The operations a decoder's forward is made of, on the values of one forward. What they compute is
/// said at [`Device`]; ids, positions, pictures and the key/value cache are the forward's.
///
/// [`Immediate`] runs each as it is called; `compile` has an implementation that records them.
/// Weights have the names of their modules.
pub(crate) trait Ops<D: Device> {
    /// Activations.
    type Tensor;
    /// Which experts each token goes to.
    type Routing;

    /// What follows is of this layer.
    fn enter_layer(&mut self, layer: usize);

    /// The last layer is done.
    fn leave_layers(&mut self);

    fn embed(&mut self, table: &Arc<DeviceLinear<D>>) -> Result<Self::Tensor>;

    /// The rows of pictures in place of their placeholders.
    fn put_visuals(&mut self, x: &mut Self::Tensor) -> Result<()>;

    /// What the pictures add to their rows after the layer.
    fn add_deepstack(&mut self, x: &mut Self::Tensor) -> Result<()>;

    fn rms_norm(
        &mut self,
        name: &'static str,
        x: &Self::Tensor,
        weight: &Arc<D::Vector>,
        eps: f32,
    ) -> Result<Self::Tensor>;

    fn linear(
        &mut self,
        name: &'static str,
        x: &Self::Tensor,
        linear: &Arc<DeviceLinear<D>>,
    ) -> Result<Self::Tensor>;

    fn clamp(&mut self, x: &mut Self::Tensor, limit: f32) -> Result<()>;

    fn rope(&mut self, x: &mut Self::Tensor, head_dim: usize) -> Result<()>;

    /// The causal attention of the layer.
    fn attention(&mut self, qkv: [&Self::Tensor; 3], spec: &AttentionSpec) -> Result<Self::Tensor>;

    fn add(&mut self, x: &mut Self::Tensor, y: &Self::Tensor) -> Result<()>;

    fn route(&mut self, logits: &Self::Tensor, spec: &RouterSpec) -> Result<Self::Routing>;

    /// The weighted sum of the routed experts.
    fn experts(
        &mut self,
        experts: &Arc<Experts<D>>,
        x: &Self::Tensor,
        routing: &Self::Routing,
    ) -> Result<Self::Tensor>;

    fn activate(
        &mut self,
        activation: Activation,
        gate: &Self::Tensor,
        up: &mut Self::Tensor,
    ) -> Result<()>;

    fn add_gated(
        &mut self,
        x: &mut Self::Tensor,
        y: &Self::Tensor,
        gate: &Self::Tensor,
    ) -> Result<()>;

    /// The rows logits are wanted of.
    fn select_logits_rows(&mut self, x: Self::Tensor) -> Result<Self::Tensor>;

    /// Shows a value to who observes the forward.
    fn show(&mut self, stage: for<'a> fn(&'a D::Tensor) -> Stage<'a, D>, x: &Self::Tensor);

    /// [`show`](Self::show) for a routing.
    fn show_routing(&mut self, routing: &Self::Routing);
}

/// Runs every operation as it is called, each with a result of its own.
pub(super) struct Immediate<'c, 'a, D: Device> {
    pub(super) device: &'c D,
    pub(super) call: &'c mut Forward<'a, D>,
    layer: usize,
}

impl<'c, 'a, D: Device> Immediate<'c, 'a, D> {
    pub(super) fn new(device: &'c D, call: &'c mut Forward<'a, D>) -> Self {
        Self { device, call, layer: 0 }
    }
}

impl<D: Device> Ops<D> for Immediate<'_, '_, D> {
    type Tensor = D::Tensor;
    type Routing = D::Routing;

    fn enter_layer(&mut self, layer: usize) {
        self.layer = layer;
    }

    fn leave_layers(&mut self) {}

    fn embed(&mut self, table: &Arc<DeviceLinear<D>>) -> Result<D::Tensor> {
        Ok(made(|out| self.device.embed(&table.weight, self.call.input.ids, out))?)
    }

    fn put_visuals(&mut self, x: &mut D::Tensor) -> Result<()> {
        for visual in self.call.input.visuals {
            self.device.put_rows(x, &visual.rows, &visual.features.embeddings)?;
        }
        Ok(())
    }

    fn add_deepstack(&mut self, x: &mut D::Tensor) -> Result<()> {
        for visual in self.call.input.visuals {
            if let Some(features) = visual.features.deepstack.get(self.layer) {
                self.device.add_rows(x, &visual.rows, features)?;
            }
        }
        Ok(())
    }

    fn rms_norm(
        &mut self,
        _name: &'static str,
        x: &D::Tensor,
        weight: &Arc<D::Vector>,
        eps: f32,
    ) -> Result<D::Tensor> {
        Ok(made(|out| self.device.rms_norm(x, weight, eps, out))?)
    }

    fn linear(
        &mut self,
        _name: &'static str,
        x: &D::Tensor,
        linear: &Arc<DeviceLinear<D>>,
    ) -> Result<D::Tensor> {
        let scratch = &mut self.call.session.scratch;
        Ok(made(|out| self.device.linear(x, &[linear], scratch, std::slice::from_mut(out)))?)
    }

    fn clamp(&mut self, x: &mut D::Tensor, limit: f32) -> Result<()> {
        Ok(self.device.clamp(x, limit)?)
    }

    fn rope(&mut self, x: &mut D::Tensor, head_dim: usize) -> Result<()> {
        let [cos, sin] = &self.call.session.inputs.angles;
        Ok(self.device.rope(x, head_dim, cos, sin)?)
    }

    fn attention(&mut self, qkv: [&D::Tensor; 3], spec: &AttentionSpec) -> Result<D::Tensor> {
        let (session, batch) = (&mut *self.call.session, self.call.input.batch);
        let (cache, scratch, layer) = (&mut session.cache, &mut session.scratch, self.layer);
        let out = |out: &mut _| {
            self.device.attention(AttentionCall { qkv, cache, layer, batch, spec, scratch }, out)
        };
        Ok(made(out)?)
    }

    fn add(&mut self, x: &mut D::Tensor, y: &D::Tensor) -> Result<()> {
        Ok(self.device.add(x, y)?)
    }

    fn route(&mut self, logits: &D::Tensor, spec: &RouterSpec) -> Result<D::Routing> {
        Ok(made(|out| self.device.route(logits, spec, None, out))?)
    }

    fn experts(
        &mut self,
        experts: &Arc<Experts<D>>,
        x: &D::Tensor,
        routing: &D::Routing,
    ) -> Result<D::Tensor> {
        let (device, hidden) = (self.device, experts.spec().hidden);
        let mut out = D::Tensor::default();
        device.reset_tensor(&mut out, self.call.input.batch.tokens(), hidden)?;
        let scratch = &mut self.call.session.scratch;
        let call = ExpertsCall { device, experts, x, routing, scratch };
        self.call.experts.forward(call, &mut out)?;
        Ok(out)
    }

    fn activate(
        &mut self,
        activation: Activation,
        gate: &D::Tensor,
        up: &mut D::Tensor,
    ) -> Result<()> {
        Ok(self.device.activate(activation, Some(gate), up)?)
    }

    fn add_gated(&mut self, x: &mut D::Tensor, y: &D::Tensor, gate: &D::Tensor) -> Result<()> {
        Ok(self.device.add_gated(x, y, gate)?)
    }

    fn select_logits_rows(&mut self, x: D::Tensor) -> Result<D::Tensor> {
        match self.call.session.inputs.logits_rows() {
            Some(rows) => Ok(made(|out| self.device.select_rows(&x, rows, out))?),
            None => Ok(x),
        }
    }

    fn show(&mut self, stage: for<'a> fn(&'a D::Tensor) -> Stage<'a, D>, x: &D::Tensor) {
        (self.call.observer)(self.layer, stage(x));
    }

    fn show_routing(&mut self, routing: &D::Routing) {
        (self.call.observer)(self.layer, Stage::Routing(routing));
    }
}
