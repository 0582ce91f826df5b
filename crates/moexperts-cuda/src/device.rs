//! The GPU as a [`Device`].

use std::sync::Arc;

use moexperts_core::{
    Activation, AttentionCall, AttentionSpec, DType, Device, DeviceKind, DeviceLinear, Elements, Error,
    ExpertsBackend, Knob, KvCacheSpec, Matrix, Result, RouterSpec, Routing, Scratch, SharedSlices,
    Weight,
};

use crate::{
    cuda::Cuda,
    memory::{Buffer, CudaMatrix, CudaRouting, CudaTensor, CudaVector},
};

/// Keys and values of all layers and sequences.
#[derive(Debug)]
pub struct KvCache;

impl Device for Cuda {
    const NAME: &'static str = "CUDA";
    const KIND: DeviceKind = DeviceKind::Gpu;

    type Matrix = CudaMatrix;
    type Vector = CudaVector;
    type Tensor = CudaTensor;
    type Routing = CudaRouting;
    type KvCache = KvCache;

    fn built_in_experts() -> Vec<Arc<dyn ExpertsBackend<Self>>> {
        Vec::new()
    }

    fn knobs(&self) -> &'static [Knob] {
        &[]
    }

    fn with_knob(&self, _index: usize, _value: usize) -> Self {
        self.clone()
    }

    fn fingerprint(&self) -> String {
        let (major, minor) = self.properties().compute_capability;
        format!("{}, sm_{major}{minor}", self.properties().name)
    }

    fn kernel_name(&self, _weight: &CudaMatrix, _rows: usize) -> String {
        String::new()
    }

    fn resident_copy(&self, _weight: &CudaMatrix) -> Result<Option<CudaMatrix>> {
        Ok(None)
    }

    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
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
        if values.len() != rows * cols {
            return Err(Error::Shape {
                what: "tensor data".into(),
                expected: format!("[{rows}, {cols}]"),
                got: format!("[{}]", values.len()),
            });
        }
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

    fn new_kv_cache(&self, spec: KvCacheSpec) -> Result<Self::KvCache> {
        Err(Self::problem("not written yet: new_kv_cache"))
    }

    fn reserve_positions(&self, cache: &mut Self::KvCache, sequence: usize, positions: usize) -> Result<()> {
        Err(Self::problem("not written yet: reserve_positions"))
    }

    fn embed(&self, table: &Self::Matrix, ids: &[u32], out: &mut Self::Tensor) -> Result<()> {
        Err(Self::problem("not written yet: embed"))
    }

    fn embedding_bag(&self, table: &Self::Matrix, rows: &[u32], weights: &[f32], taps: usize, out: &mut Self::Tensor) -> Result<()> {
        Err(Self::problem("not written yet: embedding_bag"))
    }

    fn select_rows(&self, x: &Self::Tensor, rows: &[usize], out: &mut Self::Tensor) -> Result<()> {
        Err(Self::problem("not written yet: select_rows"))
    }

    fn put_rows(&self, x: &mut Self::Tensor, rows: &[usize], y: &Self::Tensor) -> Result<()> {
        Err(Self::problem("not written yet: put_rows"))
    }

    fn add_rows(&self, x: &mut Self::Tensor, rows: &[usize], y: &Self::Tensor) -> Result<()> {
        Err(Self::problem("not written yet: add_rows"))
    }

    fn layer_norm(&self, x: &Self::Tensor, weight: &Self::Vector, bias: &Self::Vector, eps: f32, out: &mut Self::Tensor) -> Result<()> {
        Err(Self::problem("not written yet: layer_norm"))
    }

    fn rms_norm(&self, x: &Self::Tensor, weight: &Self::Vector, eps: f32, out: &mut Self::Tensor) -> Result<()> {
        Err(Self::problem("not written yet: rms_norm"))
    }

    fn linear(&self, x: &Self::Tensor, linears: &[&DeviceLinear<Self>], scratch: &mut Scratch, outs: &mut [Self::Tensor]) -> Result<()> {
        Err(Self::problem("not written yet: linear"))
    }

    fn rope(&self, x: &mut Self::Tensor, head_dim: usize, cos: &Self::Tensor, sin: &Self::Tensor) -> Result<()> {
        Err(Self::problem("not written yet: rope"))
    }

    fn attention(&self, call: AttentionCall<'_, Self>, out: &mut Self::Tensor) -> Result<()> {
        Err(Self::problem("not written yet: attention"))
    }

    fn full_attention(&self, qkv: [&Self::Tensor; 3], segments: &[usize], spec: &AttentionSpec, out: &mut Self::Tensor) -> Result<()> {
        Err(Self::problem("not written yet: full_attention"))
    }

    fn route(&self, logits: &Self::Tensor, spec: &RouterSpec, shared: Option<SharedSlices<'_, Self>>, out: &mut Self::Routing) -> Result<()> {
        Err(Self::problem("not written yet: route"))
    }

    fn route_all(&self, tokens: usize, out: &mut Self::Routing) -> Result<()> {
        Err(Self::problem("not written yet: route_all"))
    }

    fn activate(&self, activation: Activation, gate: Option<&Self::Tensor>, up: &mut Self::Tensor) -> Result<()> {
        Err(Self::problem("not written yet: activate"))
    }

    fn add(&self, x: &mut Self::Tensor, y: &Self::Tensor) -> Result<()> {
        Err(Self::problem("not written yet: add"))
    }

    fn add_gated(&self, x: &mut Self::Tensor, y: &Self::Tensor, gate: &Self::Tensor) -> Result<()> {
        Err(Self::problem("not written yet: add_gated"))
    }

    fn clamp(&self, x: &mut Self::Tensor, limit: f32) -> Result<()> {
        Err(Self::problem("not written yet: clamp"))
    }
}
