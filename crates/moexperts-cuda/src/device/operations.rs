//! The operations of the GPU.

use moexperts_core::{
    Activation, AttentionCall, AttentionSpec, DeviceLinear, GateFunction, Operations, Result,
    RopePairing, RouteOperands, RouterSpec, Scratch, checks,
};

use crate::{
    attention,
    cuda::Cuda,
    elementwise::{activation, norm, rope, rows, values},
    product::linear,
    routing,
    runtime::memory::{CudaMatrix, CudaRouting, CudaTensor, CudaVector},
};

impl Operations for Cuda {
    fn has_activation(&self, activation: Activation) -> bool {
        activation::has_activation(activation)
    }

    fn check_attention(&self, spec: &AttentionSpec, _sinks: bool) -> Result<()> {
        attention::check(self, spec)
    }

    fn check_router(&self, spec: &RouterSpec, experts: usize, pick_bias: bool) -> Result<()> {
        routing::check(self, spec, experts, pick_bias)
    }

    fn embed(&self, table: &CudaMatrix, ids: &[u32], out: &mut CudaTensor) -> Result<()> {
        rows::embed(self, table, ids, out)
    }

    fn embedding_bag(
        &self,
        table: &CudaMatrix,
        rows: &[u32],
        weights: &[f32],
        taps: usize,
        out: &mut CudaTensor,
    ) -> Result<()> {
        rows::embedding_bag(self, table, rows, weights, taps, out)
    }

    fn reshape(&self, x: CudaTensor, cols: usize) -> Result<CudaTensor> {
        let rows = checks::reshape(x.shape(), cols)?;
        Ok(x.reshaped(rows, cols))
    }

    fn select_rows(&self, x: &CudaTensor, rows: &[usize], out: &mut CudaTensor) -> Result<()> {
        rows::select(self, x, rows, out)
    }

    fn put_rows(&self, x: &mut CudaTensor, rows: &[usize], y: &CudaTensor) -> Result<()> {
        rows::put(self, x, rows, y)
    }

    fn add_rows(&self, x: &mut CudaTensor, rows: &[usize], y: &CudaTensor) -> Result<()> {
        rows::add(self, x, rows, y)
    }

    fn layer_norm(
        &self,
        x: &CudaTensor,
        weight: &CudaVector,
        bias: &CudaVector,
        eps: f32,
        out: &mut CudaTensor,
    ) -> Result<()> {
        norm::layer_norm(self, x, [weight, bias], eps, out)
    }

    fn rms_norm(
        &self,
        x: &CudaTensor,
        weight: &CudaVector,
        eps: f32,
        out: &mut CudaTensor,
    ) -> Result<()> {
        norm::rms_norm(self, x, None, weight, eps, out)
    }

    fn add_rms_norm(
        &self,
        x: &mut CudaTensor,
        y: &CudaTensor,
        scale: f32,
        weight: &CudaVector,
        eps: f32,
        out: &mut CudaTensor,
    ) -> Result<()> {
        norm::rms_norm(self, x, Some((y, scale)), weight, eps, out)
    }

    fn linear(
        &self,
        x: &CudaTensor,
        linears: &[&DeviceLinear<Self>],
        scratch: &mut Scratch,
        outs: &mut [CudaTensor],
    ) -> Result<()> {
        linear::linear(self, x, linears, scratch, outs)
    }

    fn rope(
        &self,
        x: &mut CudaTensor,
        head_dim: usize,
        pairing: RopePairing,
        cos: &CudaTensor,
        sin: &CudaTensor,
    ) -> Result<()> {
        rope::rope(self, x, head_dim, pairing, cos, sin)
    }

    fn attention(&self, call: AttentionCall<'_, Self>, out: &mut CudaTensor) -> Result<()> {
        attention::causal(self, call, out)
    }

    fn full_attention(
        &self,
        qkv: [&CudaTensor; 3],
        segments: &[usize],
        spec: &AttentionSpec,
        out: &mut CudaTensor,
    ) -> Result<()> {
        attention::full(self, qkv, segments, spec, out)
    }

    fn route(
        &self,
        logits: &CudaTensor,
        spec: &RouterSpec,
        operands: RouteOperands<'_, Self>,
        out: &mut CudaRouting,
    ) -> Result<()> {
        routing::route(self, logits, spec, operands, out)
    }

    fn route_all(&self, tokens: usize, out: &mut CudaRouting) -> Result<()> {
        routing::route_all(self, tokens, out)
    }

    fn activate(
        &self,
        activation: Activation,
        gate: Option<&CudaTensor>,
        up: &mut CudaTensor,
    ) -> Result<()> {
        values::activate(self, activation, gate, up)
    }

    fn add(&self, x: &mut CudaTensor, y: &CudaTensor, scale: f32) -> Result<()> {
        values::add(self, x, y, scale)
    }

    fn add_gated(&self, x: &mut CudaTensor, y: &CudaTensor, gate: &CudaTensor) -> Result<()> {
        values::add_gated(self, x, y, gate)
    }

    fn gate(&self, x: &mut CudaTensor, gate: &CudaTensor, function: GateFunction) -> Result<()> {
        values::gate(self, x, gate, function)
    }

    fn scale(&self, x: &mut CudaTensor, factor: f32) -> Result<()> {
        values::scale(self, x, factor)
    }

    fn clamp(&self, x: &mut CudaTensor, limit: f32) -> Result<()> {
        values::clamp(self, x, limit)
    }
}
