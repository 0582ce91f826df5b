//! The CPU as a [`Device`].

use std::{num::NonZero, sync::Arc, thread::available_parallelism};

use moexperts_core::{
    Activation, AttentionSpec, Batch, Device, DeviceKind, DeviceLinear, Error, ExpertsBackend,
    KvCacheSpec, Matrix, Result, RouterSpec, Routing, Tensor,
};

use crate::{
    attention::{self, KvCache},
    elementwise::{Elementwise, portable::sigmoid},
    experts::{BatchedMm, Eager, GroupedMm},
    isa::Isa,
    product::{BLOCK_INPUTS, BLOCK_OUTPUTS, Kernel},
    routing,
    shared_rows::SharedRows,
    threads::Threads,
};

/// Products below this many multiplications are not worth another thread.
const MIN_MULTIPLICATIONS: usize = 1 << 16;

/// Values below which an elementwise operation is not worth another thread.
const MIN_VALUES: usize = 1 << 14;

/// How a [`Cpu`] computes.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuOptions {
    /// Threads to compute with; as many as the machine has if not set.
    pub threads: Option<NonZero<usize>>,
    /// Instruction set; the best of the machine, or `MOEXPERTS_ISA`, if not set.
    pub isa: Option<Isa>,
}

/// The processor, its instruction set and a pool of threads. Clones share the pool.
#[derive(Debug, Clone)]
pub struct Cpu {
    isa: Isa,
    elementwise: Elementwise,
    threads: Arc<Threads>,
}

impl Cpu {
    /// Finds the instruction set and starts the threads.
    ///
    /// # Errors
    /// [`Error::Device`] if the instruction set is unknown or missing, or no thread can be made.
    pub fn new(options: CpuOptions) -> Result<Self> {
        let refused = |problem: String| Error::Device { device: Self::NAME, problem };
        let isa = match options.isa {
            Some(isa) if isa.runs_here() => isa,
            Some(isa) => return Err(refused(format!("instruction set `{isa}` is missing"))),
            None => Isa::choose().map_err(|error| refused(error.to_string()))?,
        };
        let threads = options.threads.or_else(|| available_parallelism().ok());
        let threads = Threads::new(threads.map_or(1, NonZero::get))
            .map_err(|error| refused(error.to_string()))?;
        tracing::debug!(%isa, threads = threads.count(), "chose the instruction set");
        Ok(Self { isa, elementwise: Elementwise::select(isa), threads: Arc::new(threads) })
    }

    /// The instruction set its kernels use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads it computes with.
    pub fn thread_count(&self) -> usize {
        self.threads.count()
    }

    pub(crate) fn threads(&self) -> &Threads {
        &self.threads
    }

    pub(crate) fn elementwise(&self) -> &Elementwise {
        &self.elementwise
    }

    /// Calls `work` with the index and the values of every row, rows divided among the threads.
    fn for_each_row(&self, x: &mut [f32], cols: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
        if cols == 0 {
            return;
        }
        let rows = x.len() / cols;
        let shared = SharedRows::new(x, cols);
        self.threads.split(rows, MIN_VALUES.div_ceil(cols), |range| {
            for row in range {
                // SAFETY: the rows are divided among the threads.
                work(row, unsafe { shared.part(row, 0..cols) });
            }
        });
    }
}

fn same_shape(what: &str, x: &Tensor, y: &Tensor) -> Result<()> {
    let (expected, got) = ([x.rows(), x.cols()], [y.rows(), y.cols()]);
    if expected == got { Ok(()) } else { Err(Error::shape(what, expected, got)) }
}

impl Device for Cpu {
    const NAME: &'static str = "CPU";
    const KIND: DeviceKind = DeviceKind::Cpu;

    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type Tensor = Tensor;
    type Routing = Routing;
    type KvCache = KvCache;

    fn built_in_experts() -> Vec<Arc<dyn ExpertsBackend<Self>>> {
        vec![Arc::new(Eager), Arc::new(BatchedMm), Arc::new(GroupedMm)]
    }

    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.threads.enter(work)
    }

    fn load_matrix(&self, weight: Matrix) -> Result<Matrix> {
        Ok(weight)
    }

    fn load_vector(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }

    fn load_tensor(&self, rows: usize, cols: usize, values: Vec<f32>) -> Result<Tensor> {
        Tensor::from_vec(rows, cols, values)
    }

    fn read_tensor(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        Ok(tensor.data().to_vec())
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

    fn new_tensor_like(&self, x: &Tensor) -> Result<Tensor> {
        Ok(Tensor::zeros(x.rows(), x.cols()))
    }

    fn embed(&self, table: &Matrix, ids: &[u32]) -> Result<Tensor> {
        let mut out = Tensor::zeros(ids.len(), table.cols());
        for (token, &id) in ids.iter().enumerate() {
            let index = id as usize;
            if index >= table.rows() {
                return Err(Error::OutOfRange { what: "token id", index, limit: table.rows() });
            }
            table.row(index).write_f32(out.row_mut(token));
        }
        Ok(out)
    }

    fn select_rows(&self, x: &Tensor, rows: &[usize]) -> Result<Tensor> {
        let mut out = Tensor::zeros(rows.len(), x.cols());
        for (place, &index) in rows.iter().enumerate() {
            if index >= x.rows() {
                return Err(Error::OutOfRange { what: "row", index, limit: x.rows() });
            }
            out.row_mut(place).copy_from_slice(x.row(index));
        }
        Ok(out)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Vec<f32>, eps: f32) -> Result<Tensor> {
        if weight.is_empty() || !x.cols().is_multiple_of(weight.len()) {
            let expected = format!("a multiple of [{}]", weight.len());
            let got = format!("[{}]", x.cols());
            return Err(Error::Shape { what: "row to normalise".into(), expected, got });
        }
        let mut out = Tensor::zeros(x.rows(), x.cols());
        self.for_each_row(out.data_mut(), x.cols(), |row, out| {
            let heads = x.row(row).chunks_exact(weight.len());
            for (x, out) in heads.zip(out.chunks_exact_mut(weight.len())) {
                self.elementwise.rms_norm(x, weight, eps, out);
            }
        });
        Ok(out)
    }

    fn linear(&self, x: &Tensor, linear: &DeviceLinear<Self>) -> Result<Tensor> {
        let (weight, bias) = (&linear.weight, &linear.bias);
        if x.cols() != weight.cols() {
            let (expected, got) = ([x.rows(), weight.cols()], [x.rows(), x.cols()]);
            return Err(Error::shape("input of a linear layer", expected, got));
        }
        if let Some(bias) = bias.as_ref().filter(|bias| bias.len() != weight.rows()) {
            let (expected, got) = (format!("[{}]", weight.rows()), format!("[{}]", bias.len()));
            return Err(Error::Shape { what: "bias".into(), expected, got });
        }
        let mut out = Tensor::zeros(x.rows(), weight.rows());
        let kernel = Kernel::select(self.isa, weight.dtype());
        let mut rounded = Vec::new();
        let inputs = kernel.prepare(x.data(), &mut rounded);
        let rows: Vec<u32> = (0..x.rows() as u32).collect();
        let shared = SharedRows::new(out.data_mut(), weight.rows());
        let grain = MIN_MULTIPLICATIONS.div_ceil((x.rows() * x.cols()).max(1));
        self.threads.split(weight.rows(), grain.next_multiple_of(16), |columns| {
            let mut product = [0.0; BLOCK_INPUTS * BLOCK_OUTPUTS];
            for first in columns.clone().step_by(BLOCK_OUTPUTS) {
                let columns = first..(first + BLOCK_OUTPUTS).min(columns.end);
                for rows in rows.chunks(BLOCK_INPUTS) {
                    let product = &mut product[..rows.len() * columns.len()];
                    kernel.run(inputs, rows, weight.into(), columns.clone(), product);
                    for (&row, values) in rows.iter().zip(product.chunks_exact(columns.len())) {
                        // SAFETY: the columns are divided among the threads.
                        let out = unsafe { shared.part(row as usize, columns.clone()) };
                        out.copy_from_slice(values);
                        if let Some(bias) = bias {
                            self.elementwise.add_scaled(out, &bias[columns.clone()], 1.0);
                        }
                    }
                }
            }
        });
        Ok(out)
    }

    fn rope(&self, x: &mut Tensor, head_dim: usize, cos: &Tensor, sin: &Tensor) -> Result<()> {
        same_shape("sines", cos, sin)?;
        let half = cos.cols();
        if cos.rows() != x.rows() {
            return Err(Error::shape("cosines", [x.rows(), half], [cos.rows(), half]));
        }
        if head_dim == 0 || !x.cols().is_multiple_of(head_dim) || 2 * half > head_dim {
            let expected = format!("heads of at least {}", 2 * half);
            let got = format!("[{}] in heads of {head_dim}", x.cols());
            return Err(Error::Shape { what: "row to rotate".into(), expected, got });
        }
        let cols = x.cols();
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

    fn attention(
        &self,
        qkv: [&Tensor; 3],
        cache: &mut KvCache,
        layer: usize,
        batch: &Batch,
        spec: &AttentionSpec,
    ) -> Result<Tensor> {
        attention::attention(self, qkv, cache, layer, batch, spec)
    }

    fn route(&self, logits: &Tensor, spec: &RouterSpec) -> Result<Routing> {
        routing::route(logits, spec)
    }

    fn activate(
        &self,
        activation: Activation,
        gate: Option<&Tensor>,
        up: &mut Tensor,
    ) -> Result<()> {
        if let Some(gate) = gate {
            same_shape("gate", up, gate)?;
        }
        let cols = up.cols();
        self.for_each_row(up.data_mut(), cols, |row, up| match gate {
            Some(gate) => self.elementwise.activate_gated(activation, gate.row(row), up),
            None => self.elementwise.activate(activation, up),
        });
        Ok(())
    }

    fn add(&self, x: &mut Tensor, y: &Tensor) -> Result<()> {
        same_shape("summand", x, y)?;
        let cols = x.cols();
        self.for_each_row(x.data_mut(), cols, |row, x| {
            self.elementwise.add_scaled(x, y.row(row), 1.0);
        });
        Ok(())
    }

    fn add_gated(&self, x: &mut Tensor, y: &Tensor, gate: &Tensor) -> Result<()> {
        same_shape("summand", x, y)?;
        if [gate.rows(), gate.cols()] != [x.rows(), 1] {
            return Err(Error::shape("gate", [x.rows(), 1], [gate.rows(), gate.cols()]));
        }
        let cols = x.cols();
        self.for_each_row(x.data_mut(), cols, |row, x| {
            self.elementwise.add_scaled(x, y.row(row), sigmoid(gate.row(row)[0]));
        });
        Ok(())
    }

    fn clamp(&self, x: &mut Tensor, limit: f32) -> Result<()> {
        for value in x.data_mut() {
            *value = value.max(-limit).min(limit);
        }
        Ok(())
    }
}
