//! One operation of a plan, run.

use std::sync::Arc;

use moexperts_core::{AttentionCall, Device, ExpertsCall, SharedSlices};

use super::{
    graph::{Cost, Op, Rows, Shape},
    workspace::Workspace,
};
use crate::{error::Result, model::Forward};

/// Layers of one input that an operation takes at once.
const MAX_LINEARS: usize = 8;

/// An operation with the device it runs on, which carries the settings of its kernels.
#[derive(Debug)]
pub(super) struct Step<D: Device> {
    pub(super) op: Op<D>,
    pub(super) device: D,
    pub(super) parts: Vec<&'static str>,
    pub(super) layer: Option<usize>,
    pub(super) cost: Cost,
    /// Rows it computes.
    pub(super) rows: usize,
    /// Places of the workspace.
    pub(super) reads: Vec<usize>,
    pub(super) writes: Vec<usize>,
    /// Of what it writes.
    pub(super) shapes: Vec<Shape>,
}

impl<D: Device> Step<D> {
    /// Experts that each token goes to.
    pub(super) fn experts_per_token(&self) -> usize {
        let Op::Experts { experts, .. } = &self.op else { return 0 };
        let once = 2 * self.rows * experts.spec().weights_per_expert();
        (self.cost.flops / once.max(1) as f64).round() as usize
    }

    /// Rows that pass weights together; of an expert, if all are as likely.
    pub(super) fn rows_at_once(&self) -> usize {
        let Op::Experts { experts, backend } = &self.op else { return self.rows };
        if !backend.groups_tokens() {
            return 1;
        }
        let spec = experts.spec();
        let hit = self.cost.bytes / spec.bytes_per_expert().max(1) as f64;
        let pairs = self.cost.flops / (2 * spec.weights_per_expert()).max(1) as f64;
        (pairs / hit.max(1.0)).round().max(1.0) as usize
    }

    /// Gives what it would write its shape, the values being whatever there is.
    ///
    /// # Errors
    /// If the device has no room for it.
    pub(super) fn pass_over(
        &self,
        workspace: &mut Workspace<D>,
        call: &Forward<'_, D>,
    ) -> Result<()> {
        let tokens = call.input.batch.tokens();
        for (&place, shape) in self.writes.iter().zip(&self.shapes) {
            let Shape::Tensor { rows, cols } = *shape else { continue };
            let rows = match rows {
                Rows::Tokens => tokens,
                Rows::Logits => call.session.inputs.logits_rows().map_or(tokens, <[_]>::len),
            };
            self.device.reset_tensor(&mut workspace.tensors[place], rows, cols)?;
        }
        Ok(())
    }

    /// Runs the operation.
    ///
    /// # Errors
    /// As the operation of the device.
    pub(super) fn run(
        &self,
        workspace: &mut Workspace<D>,
        call: &mut Forward<'_, D>,
    ) -> Result<()> {
        let (device, reads, writes) = (&self.device, &self.reads, &self.writes);
        match &self.op {
            Op::Embed(table) => workspace.write([writes[0]], |[out], _| {
                Ok(device.embed(&table.weight, call.input.ids, out)?)
            }),
            Op::PutVisuals => workspace.write([writes[0]], |[x], _| {
                for visual in call.input.visuals {
                    device.put_rows(x, &visual.rows, &visual.features.embeddings)?;
                }
                Ok(())
            }),
            Op::AddDeepstack => workspace.write([writes[0]], |[x], _| {
                for visual in call.input.visuals {
                    let features = &visual.features.deepstack;
                    if let Some(features) = self.layer.and_then(|layer| features.get(layer)) {
                        device.add_rows(x, &visual.rows, features)?;
                    }
                }
                Ok(())
            }),
            Op::RmsNorm { weight, eps } => workspace.write([writes[0]], |[out], all| {
                Ok(device.rms_norm(&all[reads[0]], weight, *eps, out)?)
            }),
            Op::AddRmsNorm { weight, eps } => workspace
                .write([writes[0], writes[1]], |[x, out], all| {
                    Ok(device.add_rms_norm(x, &all[reads[0]], weight, *eps, out)?)
                }),
            Op::Linear(linears) => self.linear(linears, workspace, call),
            Op::Clamp(limit) => workspace.write([writes[0]], |[x], _| Ok(device.clamp(x, *limit)?)),
            Op::Rope { head_dim } => {
                let [cos, sin] = &call.session.inputs.angles;
                for &place in writes {
                    workspace.write([place], |[x], _| Ok(device.rope(x, *head_dim, cos, sin)?))?;
                }
                Ok(())
            }
            Op::Attention(spec) => workspace.write([writes[0]], |[out], all| {
                let session = &mut *call.session;
                let qkv = [&all[reads[0]], &all[reads[1]], &all[reads[2]]];
                let layer = self.layer.unwrap_or(0);
                let (cache, scratch) = (&mut session.cache, &mut session.scratch);
                let batch = call.input.batch;
                let call = AttentionCall { qkv, cache, layer, batch, spec, scratch };
                Ok(device.attention(call, out)?)
            }),
            Op::Add => workspace.write([writes[0]], |[x], all| Ok(device.add(x, &all[reads[0]])?)),
            Op::Route(spec) => {
                let Workspace { tensors, routings, .. } = workspace;
                let routing = &mut routings[writes[0]];
                Ok(device.route(&tensors[reads[0]], spec, None, routing)?)
            }
            Op::Router { linears, spec, shared_slices } => {
                self.linear(linears, workspace, call)?;
                let Workspace { tensors, routings, .. } = workspace;
                let gate = (*shared_slices > 0).then(|| &tensors[writes[1]]);
                let shared =
                    gate.map(|gate| SharedSlices { slices: *shared_slices, gate: Some(gate) });
                let routing = &mut routings[writes[linears.len()]];
                Ok(device.route(&tensors[writes[0]], spec, shared, routing)?)
            }
            Op::RouteAll => {
                let routing = &mut workspace.routings[writes[0]];
                Ok(device.route_all(call.input.batch.tokens(), routing)?)
            }
            Op::Experts { experts, backend } => {
                let (tokens, hidden) = (call.input.batch.tokens(), experts.spec().hidden);
                let scratch = &mut call.session.scratch;
                let mut out = std::mem::take(&mut workspace.tensors[writes[0]]);
                let (x, routing) = (&workspace.tensors[reads[0]], &workspace.routings[reads[1]]);
                let call = ExpertsCall { device, experts, x, routing, scratch };
                let result = device
                    .reset_tensor(&mut out, tokens, hidden)
                    .and_then(|()| backend.forward(call, &mut out));
                workspace.tensors[writes[0]] = out;
                Ok(result?)
            }
            Op::Activate(activation) => workspace.write([writes[0]], |[up], all| {
                Ok(device.activate(*activation, Some(&all[reads[0]]), up)?)
            }),
            Op::AddGated => workspace.write([writes[0]], |[x], all| {
                Ok(device.add_gated(x, &all[reads[0]], &all[reads[1]])?)
            }),
            Op::SelectLogitsRows => {
                let rows = call.session.inputs.logits_rows().unwrap_or_default();
                workspace.write([writes[0]], |[out], all| {
                    Ok(device.select_rows(&all[reads[0]], rows, out)?)
                })
            }
        }
    }

    /// The products of some layers with one input.
    fn linear(
        &self,
        linears: &[Arc<moexperts_core::DeviceLinear<D>>],
        workspace: &mut Workspace<D>,
        call: &mut Forward<'_, D>,
    ) -> Result<()> {
        let scratch = &mut call.session.scratch;
        for (linears, places) in linears.chunks(MAX_LINEARS).zip(self.writes.chunks(MAX_LINEARS)) {
            let count = linears.len();
            let mut outs: [D::Tensor; MAX_LINEARS] = Default::default();
            for (out, &place) in outs.iter_mut().zip(places).take(count) {
                *out = std::mem::take(&mut workspace.tensors[place]);
            }
            let refs: [_; MAX_LINEARS] =
                std::array::from_fn(|index| &*linears[index.min(count - 1)]);
            let x = &workspace.tensors[self.reads[0]];
            let result = self.device.linear(x, &refs[..count], scratch, &mut outs[..count]);
            for (out, &place) in outs.iter_mut().zip(places).take(count) {
                workspace.tensors[place] = std::mem::take(out);
            }
            result?;
        }
        Ok(())
    }
}
