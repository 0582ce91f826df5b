//! The GPU as a [`Device`].

use std::sync::Arc;

use moexperts_core::{
    Activation, AttentionCall, AttentionSpec, Device, DeviceKind, DeviceLinear, Error,
    ExpertsBackend, Knob, KvCacheSpec, Matrix, Result, RouterSpec, Routing, Scratch, SharedSlices,
    checks,
};

use crate::{
    attention::{self, KvCache},
    cuda::Cuda,
    elementwise, experts, linear,
    memory::{CudaMatrix, CudaRouting, CudaTensor, CudaVector},
    norm,
    replay::{self, Recording},
    rope, routing, rows,
    tuning::KNOBS,
};

impl Device for Cuda {
    const NAME: &'static str = "CUDA";
    const KIND: DeviceKind = DeviceKind::Gpu;
    const CAPTURES_GRAPHS: bool = true;

    type Matrix = CudaMatrix;
    type Vector = CudaVector;
    type Tensor = CudaTensor;
    type Routing = CudaRouting;
    type KvCache = KvCache;
    type Recording = Recording;

    fn built_in_experts() -> Vec<Arc<dyn ExpertsBackend<Self>>> {
        experts::built_in()
    }

    fn knobs(&self) -> &'static [Knob] {
        KNOBS
    }

    fn with_knob(&self, index: usize, value: usize) -> Self {
        self.tuned(self.tuning().with(index, value))
    }

    fn fingerprint(&self) -> String {
        let (major, minor) = self.properties().compute_capability;
        format!("{}, sm_{major}{minor}", self.properties().name)
    }

    fn kernel_name(&self, weight: &CudaMatrix, rows: usize) -> String {
        linear::kernel_name(self, weight, rows)
    }

    fn resident_copy(&self, _weight: &CudaMatrix) -> Result<Option<CudaMatrix>> {
        Ok(None)
    }

    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    fn synchronize(&self) -> Result<()> {
        replay::finish(self.driver())
    }

    fn enter_plan<R: Send>(
        &self,
        recording: Option<&mut Recording>,
        work: impl FnOnce() -> R + Send,
    ) -> R {
        match recording {
            Some(recording) => replay::with(self.driver(), recording, work),
            None => work(),
        }
    }

    fn load_matrix(&self, weight: Matrix) -> Result<CudaMatrix> {
        CudaMatrix::load(self, &weight)
    }

    fn load_vector(&self, values: Vec<f32>) -> Result<CudaVector> {
        CudaVector::load(self, &values)
    }

    fn new_tensor(&self, values: usize) -> Result<CudaTensor> {
        CudaTensor::with_capacity(self, values)
    }

    fn reset_tensor(&self, x: &mut CudaTensor, rows: usize, cols: usize) -> Result<()> {
        x.reset(self, rows, cols)
    }

    fn load_tensor(
        &self,
        rows: usize,
        cols: usize,
        values: &[f32],
        out: &mut CudaTensor,
    ) -> Result<()> {
        checks::tensor_data(values.len(), [rows, cols])?;
        out.load(self, rows, cols, values)
    }

    fn read_tensor(&self, tensor: &CudaTensor, out: &mut Vec<f32>) -> Result<()> {
        out.resize(tensor.len(), 0.0);
        self.read(tensor.ptr(), out)
    }

    fn new_routing(&self, pairs: usize) -> Result<CudaRouting> {
        let mut routing = CudaRouting::default();
        routing.reset(self, pairs, 1)?;
        routing.reset(self, 0, 0)?;
        Ok(routing)
    }

    fn load_routing(&self, routing: Routing) -> Result<CudaRouting> {
        CudaRouting::load(self, &routing)
    }

    fn read_routing(&self, routing: &CudaRouting) -> Result<Routing> {
        routing.to_host(self)
    }

    fn reshape(&self, x: CudaTensor, cols: usize) -> Result<CudaTensor> {
        let rows = x.len().checked_div(cols).unwrap_or(0);
        if rows * cols != x.len() {
            return Err(Error::Shape {
                what: "reshaped tensor".into(),
                expected: format!("a multiple of [{cols}]"),
                got: format!("[{}, {}]", x.rows(), x.cols()),
            });
        }
        Ok(x.reshaped(rows, cols))
    }

    fn new_kv_cache(&self, spec: KvCacheSpec) -> Result<KvCache> {
        Ok(KvCache::new(spec))
    }

    fn reserve_positions(
        &self,
        cache: &mut KvCache,
        sequence: usize,
        positions: usize,
    ) -> Result<()> {
        cache.reserve(self, sequence, positions)
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
        weight: &CudaVector,
        eps: f32,
        out: &mut CudaTensor,
    ) -> Result<()> {
        norm::rms_norm(self, x, Some(y), weight, eps, out)
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
        cos: &CudaTensor,
        sin: &CudaTensor,
    ) -> Result<()> {
        rope::rope(self, x, head_dim, cos, sin)
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
        shared: Option<SharedSlices<'_, Self>>,
        out: &mut CudaRouting,
    ) -> Result<()> {
        routing::route(self, logits, spec, shared, out)
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
        elementwise::activate(self, activation, gate, up)
    }

    fn add(&self, x: &mut CudaTensor, y: &CudaTensor) -> Result<()> {
        elementwise::add(self, x, y)
    }

    fn add_gated(&self, x: &mut CudaTensor, y: &CudaTensor, gate: &CudaTensor) -> Result<()> {
        elementwise::add_gated(self, x, y, gate)
    }

    fn clamp(&self, x: &mut CudaTensor, limit: f32) -> Result<()> {
        elementwise::clamp(self, x, limit)
    }
}
