//! The CPU as a [`Device`].

use std::sync::Arc;

use moexperts_core::{
    Activation, AttentionCall, AttentionSpec, Device, DeviceKind, DeviceLinear, ExpertsBackend,
    Knob, KvCacheSpec, Matrix, Result, RouterSpec, Routing, Scratch, SharedSlices, Tensor, checks,
};

use crate::{
    attention::{self, KvCache},
    cpu::Cpu,
    elementwise::portable::{at_least, at_most, sigmoid},
    experts::{BatchedMm, Eager, GroupedMm},
    huge_pages, linear, routing,
    shared_rows::SharedRows,
    tuning::KNOBS,
};

impl Device for Cpu {
    const NAME: &'static str = "CPU";
    const KIND: DeviceKind = DeviceKind::Cpu;

    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type Tensor = Tensor;
    type Routing = Routing;
    type KvCache = KvCache;
    type Recording = ();

    fn built_in_experts() -> Vec<Arc<dyn ExpertsBackend<Self>>> {
        vec![Arc::new(Eager), Arc::new(BatchedMm), Arc::new(GroupedMm)]
    }

    fn knobs(&self) -> &'static [Knob] {
        KNOBS
    }

    fn with_knob(&self, index: usize, value: usize) -> Self {
        self.tuned(self.tuning().with(index, value))
    }

    fn fingerprint(&self) -> String {
        let processor = Self::processor().unwrap_or_else(|| "unknown processor".to_owned());
        format!("{processor}, {}, {} threads", self.isa(), self.thread_count())
    }

    fn kernel_name(&self, weight: &Matrix, rows: usize) -> String {
        let kernel = self.kernel(weight.dtype());
        let form = match kernel.in_panels(rows) {
            (0, _) => "dot",
            (paneled, _) if paneled == rows => "lanes",
            _ => "lanes + dot",
        };
        format!("{} {form}", kernel.isa())
    }

    fn resident_copy(&self, weight: &Matrix) -> Result<Option<Matrix>> {
        huge_pages::copy(self, weight)
    }

    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.threads().enter(work)
    }

    fn enter_plan<R: Send>(&self, _: Option<&mut ()>, work: impl FnOnce() -> R + Send) -> R {
        self.threads().lead(work)
    }

    fn load_matrix(&self, weight: Matrix) -> Result<Matrix> {
        Ok(weight)
    }

    fn load_vector(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }

    fn new_tensor(&self, values: usize) -> Result<Tensor> {
        Ok(Tensor::with_capacity(values))
    }

    fn reset_tensor(&self, x: &mut Tensor, rows: usize, cols: usize) -> Result<()> {
        x.reset(rows, cols);
        Ok(())
    }

    fn load_tensor(
        &self,
        rows: usize,
        cols: usize,
        values: &[f32],
        out: &mut Tensor,
    ) -> Result<()> {
        checks::tensor_data(values.len(), [rows, cols])?;
        out.reset(rows, cols);
        out.data_mut().copy_from_slice(values);
        Ok(())
    }

    fn read_tensor(&self, tensor: &Tensor, out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        out.extend_from_slice(tensor.data());
        Ok(())
    }

    fn new_routing(&self, pairs: usize) -> Result<Routing> {
        Ok(Routing::with_capacity(pairs))
    }

    fn load_routing(&self, routing: Routing) -> Result<Routing> {
        Ok(routing)
    }

    fn read_routing(&self, routing: &Routing) -> Result<Routing> {
        Ok(routing.clone())
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
        cache.reserve(sequence, positions)
    }

    fn embed(&self, table: &Matrix, ids: &[u32], out: &mut Tensor) -> Result<()> {
        checks::indices("token id", ids.iter().map(|&id| id as usize), table.rows())?;
        out.reset(ids.len(), table.cols());
        for (token, &id) in ids.iter().enumerate() {
            table.row(id as usize).write_f32(out.row_mut(token));
        }
        Ok(())
    }

    fn embedding_bag(
        &self,
        table: &Matrix,
        rows: &[u32],
        weights: &[f32],
        taps: usize,
        out: &mut Tensor,
    ) -> Result<()> {
        let bags = checks::bags(rows, weights, taps, table.rows())?;
        out.reset(bags, table.cols());
        out.data_mut().fill(0.0);
        self.for_each_row(out.data_mut(), table.cols(), |bag, out| {
            let bag = bag * taps..(bag + 1) * taps;
            for (&row, &weight) in rows[bag.clone()].iter().zip(&weights[bag]) {
                self.elementwise().add_scaled(out, &table.row(row as usize).to_f32(), weight);
            }
        });
        Ok(())
    }

    fn reshape(&self, x: Tensor, cols: usize) -> Result<Tensor> {
        let rows = x.data().len().checked_div(cols).unwrap_or(0);
        Tensor::from_vec(rows, cols, x.into_vec())
    }

    fn select_rows(&self, x: &Tensor, rows: &[usize], out: &mut Tensor) -> Result<()> {
        checks::indices("row", rows.iter().copied(), x.rows())?;
        out.reset(rows.len(), x.cols());
        for (place, &index) in rows.iter().enumerate() {
            out.row_mut(place).copy_from_slice(x.row(index));
        }
        Ok(())
    }

    fn put_rows(&self, x: &mut Tensor, rows: &[usize], y: &Tensor) -> Result<()> {
        checks::rows_of(x.shape(), rows, y.shape())?;
        for (index, &row) in rows.iter().enumerate() {
            x.row_mut(row).copy_from_slice(y.row(index));
        }
        Ok(())
    }

    fn add_rows(&self, x: &mut Tensor, rows: &[usize], y: &Tensor) -> Result<()> {
        checks::rows_of(x.shape(), rows, y.shape())?;
        for (index, &row) in rows.iter().enumerate() {
            self.elementwise().add_scaled(x.row_mut(row), y.row(index), 1.0);
        }
        Ok(())
    }

    fn layer_norm(
        &self,
        x: &Tensor,
        weight: &Vec<f32>,
        bias: &Vec<f32>,
        eps: f32,
        out: &mut Tensor,
    ) -> Result<()> {
        checks::layer_norm(x.shape(), weight.len(), bias.len())?;
        out.reset(x.rows(), x.cols());
        self.for_each_row(out.data_mut(), x.cols(), |row, out| {
            self.elementwise().layer_norm(x.row(row), [weight, bias], eps, out);
        });
        Ok(())
    }

    fn rms_norm(&self, x: &Tensor, weight: &Vec<f32>, eps: f32, out: &mut Tensor) -> Result<()> {
        checks::rms_norm(x.shape(), weight.len())?;
        out.reset(x.rows(), x.cols());
        self.for_each_row(out.data_mut(), x.cols(), |row, out| {
            let heads = x.row(row).chunks_exact(weight.len());
            for (x, out) in heads.zip(out.chunks_exact_mut(weight.len())) {
                self.elementwise().rms_norm(x, weight, eps, out);
            }
        });
        Ok(())
    }

    fn add_rms_norm(
        &self,
        x: &mut Tensor,
        y: &Tensor,
        weight: &Vec<f32>,
        eps: f32,
        out: &mut Tensor,
    ) -> Result<()> {
        checks::shape("summand", y.shape(), x.shape())?;
        checks::rms_norm(x.shape(), weight.len())?;
        let cols = x.cols();
        out.reset(x.rows(), cols);
        let out = SharedRows::new(out.data_mut(), cols);
        self.for_each_row(x.data_mut(), cols, |row, x| {
            self.elementwise().add_scaled(x, y.row(row), 1.0);
            // SAFETY: the rows are divided among the threads.
            let out = unsafe { out.row(row) };
            for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
                self.elementwise().rms_norm(x, weight, eps, out);
            }
        });
        Ok(())
    }

    fn linear(
        &self,
        x: &Tensor,
        linears: &[&DeviceLinear<Self>],
        scratch: &mut Scratch,
        outs: &mut [Tensor],
    ) -> Result<()> {
        linear::linear(self, x, linears, scratch, outs)
    }

    fn rope(&self, x: &mut Tensor, head_dim: usize, cos: &Tensor, sin: &Tensor) -> Result<()> {
        checks::rope(x.shape(), head_dim, cos.shape(), sin.shape())?;
        let (cols, half) = (x.cols(), cos.cols());
        self.for_each_row(x.data_mut(), cols, |row, values| {
            let angles = || cos.row(row).iter().zip(sin.row(row));
            for head in values.chunks_exact_mut(head_dim) {
                let (first, second) = head[..2 * half].split_at_mut(half);
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles()) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        });
        Ok(())
    }

    fn attention(&self, call: AttentionCall<'_, Self>, out: &mut Tensor) -> Result<()> {
        attention::causal(self, call, out)
    }

    fn full_attention(
        &self,
        qkv: [&Tensor; 3],
        segments: &[usize],
        spec: &AttentionSpec,
        out: &mut Tensor,
    ) -> Result<()> {
        attention::full(self, qkv, segments, spec, out)
    }

    fn route(
        &self,
        logits: &Tensor,
        spec: &RouterSpec,
        shared: Option<SharedSlices<'_, Self>>,
        out: &mut Routing,
    ) -> Result<()> {
        routing::route(self, logits, spec, shared, out)
    }

    fn route_all(&self, tokens: usize, out: &mut Routing) -> Result<()> {
        let (index, weights) = out.reset(tokens, 1);
        index.fill(0);
        weights.fill(1.0);
        Ok(())
    }

    fn activate(
        &self,
        activation: Activation,
        gate: Option<&Tensor>,
        up: &mut Tensor,
    ) -> Result<()> {
        if let Some(gate) = gate {
            checks::shape("gate", gate.shape(), up.shape())?;
        }
        let cols = up.cols();
        self.for_each_row(up.data_mut(), cols, |row, up| match gate {
            Some(gate) => self.elementwise().activate_gated(activation, gate.row(row), up),
            None => self.elementwise().activate(activation, up),
        });
        Ok(())
    }

    fn add(&self, x: &mut Tensor, y: &Tensor) -> Result<()> {
        checks::shape("summand", y.shape(), x.shape())?;
        let cols = x.cols();
        self.for_each_row(x.data_mut(), cols, |row, x| {
            self.elementwise().add_scaled(x, y.row(row), 1.0);
        });
        Ok(())
    }

    fn add_gated(&self, x: &mut Tensor, y: &Tensor, gate: &Tensor) -> Result<()> {
        checks::shape("summand", y.shape(), x.shape())?;
        checks::shape("gate", gate.shape(), [x.rows(), 1])?;
        let cols = x.cols();
        self.for_each_row(x.data_mut(), cols, |row, x| {
            self.elementwise().add_scaled(x, y.row(row), sigmoid(gate.row(row)[0]));
        });
        Ok(())
    }

    fn clamp(&self, x: &mut Tensor, limit: f32) -> Result<()> {
        for value in x.data_mut() {
            *value = at_least(at_most(*value, limit), -limit);
        }
        Ok(())
    }
}
