//! One operation of a program, run.

use std::sync::Arc;

use moexperts_core::{
    AttentionCall, Device, DeviceLinear, ExpertsBackend, ExpertsCall, RouteOperands, SharedSlices,
};

use super::{
    cost::Cost,
    feed::Run,
    observe::StageKind,
    op::{Op, Router, RunBy},
    values::ValueShape,
    workspace::Workspace,
};
use crate::error::Result;

/// Linear layers of one input that an operation takes at once; more go in turns. Their results are in
/// an array of this length, because a step of a plan must not allocate.
const MAX_LINEARS: usize = 8;

/// An operation with the device it runs on, which carries the settings of its kernels.
#[derive(Debug)]
pub(crate) struct Step<D: Device> {
    pub(crate) op: Op<D>,
    pub(crate) device: D,
    pub(crate) parts: Vec<&'static str>,
    pub(crate) layer: Option<usize>,
    pub(super) shows: Option<StageKind>,
    pub(crate) cost: Cost,
    /// Rows it computes.
    pub(crate) rows: usize,
    /// Places of the workspace.
    pub(crate) reads: Vec<usize>,
    pub(crate) writes: Vec<usize>,
    /// Of what it writes.
    pub(crate) shapes: Vec<ValueShape>,
}

impl<D: Device> Step<D> {
    /// K: experts that each token goes to.
    pub(crate) fn experts_per_token(&self) -> usize {
        let Op::Experts { experts, .. } = &self.op else { return 0 };
        let once = 2 * self.rows * experts.spec().weights_per_expert();
        (self.cost.flops / once.max(1) as f64).round() as usize
    }

    /// Rows that pass weights together; of an expert, if all are equally likely.
    ///
    /// - `groups_tokens`: whether the chosen backend lets the tokens of an expert pass together
    pub(crate) fn rows_at_once(&self, groups_tokens: bool) -> usize {
        let Op::Experts { experts, run_by } = &self.op else { return self.rows };
        let groups_tokens = match run_by {
            RunBy::Chosen => groups_tokens,
            RunBy::Fixed(backend) => backend.groups_tokens(),
        };
        if !groups_tokens {
            return 1;
        }
        let spec = experts.spec();
        let hit = self.cost.bytes / spec.bytes_per_expert().max(1) as f64;
        let pairs = self.cost.flops / (2 * spec.weights_per_expert()).max(1) as f64;
        (pairs / hit.max(1.0)).round().max(1.0) as usize
    }

    /// Gives what it would write its shape; the values are unspecified.
    ///
    /// # Errors
    /// If the device is out of memory.
    pub(crate) fn pass_over(&self, workspace: &mut Workspace<D>, run: &Run<'_, D>) -> Result<()> {
        for (&place, shape) in self.writes.iter().zip(&self.shapes) {
            let ValueShape::Tensor { rows, cols } = *shape else { continue };
            let rows = rows.count(run.feed.counts());
            self.device.reset_tensor(&mut workspace.tensors[place], rows, cols)?;
        }
        Ok(())
    }

    /// Runs the operation.
    ///
    /// # Errors
    /// As the operation of the device.
    pub(crate) fn run(&self, workspace: &mut Workspace<D>, run: &mut Run<'_, D>) -> Result<()> {
        let (device, reads, writes) = (&self.device, &self.reads, &self.writes);
        match &self.op {
            Op::Embed(table) => workspace.write([writes[0]], |[out], _| {
                Ok(device.embed(&table.weight, run.feed.ids, out)?)
            }),
            Op::Pixels => {
                let ValueShape::Tensor { cols, .. } = self.shapes[0] else { return Ok(()) };
                let (patches, values) = (run.feed.batch.tokens(), run.feed.pixels.values);
                workspace.write([writes[0]], |[out], _| {
                    Ok(device.load_tensor(patches, cols, values, out)?)
                })
            }
            Op::EmbeddingBag(table) => {
                let pixels = &run.feed.pixels;
                workspace.write([writes[0]], |[out], _| {
                    let (rows, weights) = (pixels.rows, pixels.weights);
                    Ok(device.embedding_bag(table, rows, weights, pixels.taps, out)?)
                })
            }
            Op::PutVisuals => workspace.write([writes[0]], |[x], _| {
                for visual in run.feed.visuals {
                    device.put_rows(x, &visual.rows, &visual.features.embeddings)?;
                }
                Ok(())
            }),
            Op::AddDeepstack { index } => workspace.write([writes[0]], |[x], _| {
                for visual in run.feed.visuals {
                    if let Some(features) = visual.features.deepstack.get(*index) {
                        device.add_rows(x, &visual.rows, features)?;
                    }
                }
                Ok(())
            }),
            Op::Reshape { cols } => {
                let (from, to) = (reads[0], writes[0]);
                let x = std::mem::take(&mut workspace.tensors[from]);
                let reshaped = device.reshape(x, *cols)?;
                workspace.tensors[from] = std::mem::replace(&mut workspace.tensors[to], reshaped);
                workspace.sizes.swap(from, to);
                Ok(())
            }
            Op::LayerNorm { weight, bias, eps } => workspace.write([writes[0]], |[out], all| {
                Ok(device.layer_norm(&all[reads[0]], weight, bias, *eps, out)?)
            }),
            Op::RmsNorm { weight, eps } => workspace.write([writes[0]], |[out], all| {
                Ok(device.rms_norm(&all[reads[0]], weight, *eps, out)?)
            }),
            Op::AddRmsNorm { weight, eps, scale } => {
                workspace.write([writes[0], writes[1]], |[x, out], all| {
                    Ok(device.add_rms_norm(x, &all[reads[0]], *scale, weight, *eps, out)?)
                })
            }
            Op::Linear(linears) => self.linear(linears, workspace, run),
            Op::Clamp(limit) => workspace.write([writes[0]], |[x], _| Ok(device.clamp(x, *limit)?)),
            Op::Scale(factor) => {
                workspace.write([writes[0]], |[x], _| Ok(device.scale(x, *factor)?))
            }
            Op::Rope { rope, head_dim, pairing } => {
                let [cos, sin] = &run.feed.angles[*rope];
                for &place in writes {
                    workspace.write([place], |[x], _| {
                        Ok(device.rope(x, *head_dim, *pairing, cos, sin)?)
                    })?;
                }
                Ok(())
            }
            Op::Attention { spec, layer, sinks } => workspace.write([writes[0]], |[out], all| {
                let state = run.state.as_deref_mut().expect("attention is run with a state");
                let qkv = [&all[reads[0]], &all[reads[1]], &all[reads[2]]];
                let (layer, batch, scratch) = (*layer, run.feed.batch, &mut *run.scratch);
                let sinks = sinks.as_deref();
                let call = AttentionCall { qkv, sinks, state, layer, batch, spec, scratch };
                Ok(device.attention(call, out)?)
            }),
            Op::FullAttention(spec) => workspace.write([writes[0]], |[out], all| {
                let qkv = [&all[reads[0]], &all[reads[1]], &all[reads[2]]];
                Ok(device.full_attention(qkv, run.feed.pixels.frames, spec, out)?)
            }),
            Op::Gate(function) => workspace
                .write([writes[0]], |[x], all| Ok(device.gate(x, &all[reads[0]], *function)?)),
            Op::Add { scale } => workspace
                .write([writes[0]], |[x], all| Ok(device.add(x, &all[reads[0]], *scale)?)),
            Op::Route(router) => {
                let Workspace { tensors, routings, .. } = workspace;
                self.route(&tensors[reads[0]], router, None, &mut routings[writes[0]])
            }
            Op::Router { linears, router, shared_slices } => {
                self.linear(linears, workspace, run)?;
                let Workspace { tensors, routings, .. } = workspace;
                let gate = (linears.len() > 1).then(|| &tensors[writes[1]]);
                let slices = *shared_slices;
                let shared = (slices > 0).then_some(SharedSlices { slices, gate });
                let routing = &mut routings[writes[linears.len()]];
                self.route(&tensors[writes[0]], router, shared, routing)
            }
            Op::RouteAll => {
                let routing = &mut workspace.routings[writes[0]];
                Ok(device.route_all(run.feed.batch.tokens(), routing)?)
            }
            Op::Experts { experts, run_by } => {
                let backend: &dyn ExpertsBackend<D::Experts> = match run_by {
                    RunBy::Chosen => run.experts.expect("experts are run with a backend"),
                    RunBy::Fixed(backend) => &**backend,
                };
                let (tokens, hidden) = (run.feed.batch.tokens(), experts.spec().hidden);
                let mut out = std::mem::take(&mut workspace.tensors[writes[0]]);
                let (x, routing) = (&workspace.tensors[reads[0]], &workspace.routings[reads[1]]);
                let scratch = &mut *run.scratch;
                let call =
                    ExpertsCall { device: device.experts_device(), experts, x, routing, scratch };
                let result = device
                    .reset_tensor(&mut out, tokens, hidden)
                    .and_then(|()| backend.forward(call, &mut out));
                workspace.tensors[writes[0]] = out;
                Ok(result?)
            }
            Op::Activate(activation) => workspace.write([writes[0]], |[up], all| {
                Ok(device.activate(*activation, reads.first().map(|&gate| &all[gate]), up)?)
            }),
            Op::AddGated => workspace.write([writes[0]], |[x], all| {
                Ok(device.add_gated(x, &all[reads[0]], &all[reads[1]])?)
            }),
            Op::SelectLogitsRows => workspace.write([writes[0]], |[out], all| {
                Ok(device.select_rows(&all[reads[0]], run.feed.logits_rows, out)?)
            }),
        }
    }

    fn route(
        &self,
        logits: &D::Tensor,
        Router { spec, pick_bias, per_expert_scale }: &Router<D>,
        shared: Option<SharedSlices<'_, D>>,
        out: &mut D::Routing,
    ) -> Result<()> {
        let operands = RouteOperands {
            pick_bias: pick_bias.as_deref(),
            per_expert_scale: per_expert_scale.as_deref(),
            shared,
        };
        Ok(self.device.route(logits, spec, operands, out)?)
    }

    /// The products of some layers with one input.
    fn linear(
        &self,
        linears: &[Arc<DeviceLinear<D>>],
        workspace: &mut Workspace<D>,
        run: &mut Run<'_, D>,
    ) -> Result<()> {
        for (linears, places) in linears.chunks(MAX_LINEARS).zip(self.writes.chunks(MAX_LINEARS)) {
            let count = linears.len();
            let mut outs: [D::Tensor; MAX_LINEARS] = Default::default();
            for (out, &place) in outs.iter_mut().zip(places).take(count) {
                *out = std::mem::take(&mut workspace.tensors[place]);
            }
            let refs: [_; MAX_LINEARS] =
                std::array::from_fn(|index| &*linears[index.min(count - 1)]);
            let x = &workspace.tensors[self.reads[0]];
            let result = self.device.linear(x, &refs[..count], run.scratch, &mut outs[..count]);
            for (out, &place) in outs.iter_mut().zip(places).take(count) {
                workspace.tensors[place] = std::mem::take(out);
            }
            result?;
        }
        Ok(())
    }
}
