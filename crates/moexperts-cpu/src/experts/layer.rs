//! An experts layer in two halves with a barrier between them: into the experts, `activation(gate(x),
//! up(x))`, and out of them, the weighted down products. A backend chooses which pairs go together.

use std::ops::Range;

use half::bf16;
use moexperts_core::{Expert, Experts, ExpertsCall, Matrix, Result, Tensor};

use super::groups::{Group, Groups};
use crate::{
    cpu::Cpu,
    elementwise::Elementwise,
    product::{BLOCK_INPUTS, BLOCK_OUTPUTS, Inputs, Kernel},
    shared_rows::SharedRows,
    threads::Threads,
};

/// Buffers of one caller; they grow with the pairs, not with the experts.
#[derive(Debug, Default)]
struct Workspace {
    groups: Groups,
    rounded: Vec<bf16>,
    inner: Vec<f32>,
    inner_rounded: Vec<bf16>,
}

/// A call whose shapes agree, its pairs ordered and its output zeroed.
pub(super) struct Layer<'a> {
    threads: &'a Threads,
    experts: &'a Experts<Cpu>,
    kernel: Kernel,
    elementwise: Elementwise,
    inputs: Inputs<'a>,
    groups: &'a Groups,
    inner: Inner<'a>,
    out: SharedRows<'a, f32>,
}

/// What leaves the activation, [pairs, I], in the dtype the down product reads.
enum Inner<'a> {
    F32(SharedRows<'a, f32>),
    Bf16(SharedRows<'a, bf16>),
}

impl<'a> Layer<'a> {
    /// Checks the call and orders its pairs by expert.
    ///
    /// # Errors
    /// If the shapes disagree or the experts are of a kind this crate does not run.
    pub(super) fn new(name: &str, call: ExpertsCall<'a, Cpu>, out: &'a mut Tensor) -> Result<Self> {
        call.check_shapes(out)?;
        let ExpertsCall { device, experts, x, routing, scratch } = call;
        super::check(name, experts.spec())?;
        let (spec, workspace) = (experts.spec(), scratch.slot::<Workspace>());
        let Workspace { groups, rounded, inner, inner_rounded } = workspace;
        groups.order(routing, spec.experts);
        let kernel = Kernel::select(device.isa(), spec.dtype);
        let cells = groups.pairs().len() * spec.intermediate;
        let inner = match kernel.inputs() {
            moexperts_core::DType::Bf16 => {
                inner_rounded.resize(cells.max(inner_rounded.len()), bf16::ZERO);
                Inner::Bf16(SharedRows::new(&mut inner_rounded[..cells], spec.intermediate))
            }
            _ => {
                inner.resize(cells.max(inner.len()), 0.0);
                Inner::F32(SharedRows::new(&mut inner[..cells], spec.intermediate))
            }
        };
        out.data_mut().fill(0.0);
        Ok(Self {
            threads: device.threads(),
            experts,
            kernel,
            elementwise: *device.elementwise(),
            inputs: kernel.prepare(x.data(), rounded),
            groups,
            inner,
            out: SharedRows::new(out.data_mut(), spec.hidden),
        })
    }

    /// The pairs of each expert that was hit, in ascending id.
    pub(super) fn groups(&self) -> impl Iterator<Item = Group> + Clone + Sync + use<'a> {
        self.groups.iter()
    }

    /// Computes some pairs and adds them to the output, in the order given: the columns of I, then
    /// after a barrier the columns of H, are divided among the threads.
    pub(super) fn add(&mut self, products: impl Iterator<Item = Group> + Clone + Sync) {
        let (layer, spec) = (&*self, self.experts.spec());
        let pairs: usize = products.clone().map(|product| product.pairs.len()).sum();
        layer.threads.split(spec.intermediate, Cpu::grain(pairs * spec.hidden), |columns| {
            for Group { expert, pairs } in products.clone() {
                // SAFETY: `&mut self` keeps other calls out, and the threads divide the columns.
                unsafe { layer.up(expert, pairs, columns.clone()) };
            }
        });
        layer.threads.split(spec.hidden, Cpu::grain(pairs * spec.intermediate), |columns| {
            for Group { expert, pairs } in products.clone() {
                // SAFETY: as above, and every `up` has returned.
                unsafe { layer.down(expert, pairs, columns.clone()) };
            }
        });
    }

    /// Columns of `activation(gate(x), up(x))` for pairs of one expert.
    ///
    /// # Safety
    /// No other call in progress has the same pair and column.
    unsafe fn up(&self, expert: usize, pairs: Range<usize>, columns: Range<usize>) {
        let weights = self.experts.expert(expert);
        let mut gate = [0.0; BLOCK_INPUTS * BLOCK_OUTPUTS];
        let mut up = [0.0; BLOCK_INPUTS * BLOCK_OUTPUTS];
        for_each_block(pairs, columns, |pairs, columns| {
            let rows = &self.groups.tokens()[pairs.clone()];
            let cells = rows.len() * columns.len();
            let product = |linear, out: &mut [f32]| {
                self.product(linear, self.inputs, rows, columns.clone(), out);
            };
            let (gate, up) = (&mut gate[..cells], &mut up[..cells]);
            product(&weights.up_proj, up);
            let activation = self.experts.spec().activation;
            match &weights.gate_proj {
                Some(gate_proj) => {
                    product(gate_proj, gate);
                    self.elementwise.activate_gated(activation, gate, up);
                }
                None => self.elementwise.activate(activation, up),
            }
            for (pair, values) in pairs.zip(up.chunks_exact(columns.len())) {
                // SAFETY: the caller owes that nobody else writes these columns of this pair.
                unsafe { self.inner.store(pair, columns.clone(), values) };
            }
        });
    }

    /// Adds columns of the weighted down products of pairs of one expert to their tokens' rows.
    ///
    /// # Safety
    /// No other call in progress has the same token and column, or is an [`up`](Self::up).
    unsafe fn down(&self, expert: usize, pairs: Range<usize>, columns: Range<usize>) {
        let Expert { down_proj, .. } = self.experts.expert(expert);
        let mut product = [0.0; BLOCK_INPUTS * BLOCK_OUTPUTS];
        // SAFETY: no `up` is in progress, as the caller owes.
        let inner = unsafe { self.inner.read() };
        for_each_block(pairs, columns, |pairs, columns| {
            let mut rows = [0_u32; BLOCK_INPUTS];
            let rows = &mut rows[..pairs.len()];
            for (row, pair) in rows.iter_mut().zip(pairs.clone()) {
                *row = pair as u32;
            }
            let product = &mut product[..rows.len() * columns.len()];
            self.product(down_proj, inner, rows, columns.clone(), product);
            for (pair, values) in
                self.groups.pairs()[pairs].iter().zip(product.chunks_exact(columns.len()))
            {
                // SAFETY: the caller owes that nobody else writes these columns of this token.
                let out = unsafe { self.out.part(pair.token as usize, columns.clone()) };
                self.elementwise.add_scaled(out, values, pair.weight);
            }
        });
    }

    fn product(
        &self,
        linear: &moexperts_core::Linear<Matrix, Vec<f32>>,
        inputs: Inputs<'_>,
        rows: &[u32],
        outputs: Range<usize>,
        out: &mut [f32],
    ) {
        self.kernel.run(inputs, rows, (&linear.weight).into(), outputs.clone(), out);
        if let Some(bias) = &linear.bias {
            for row in out.chunks_exact_mut(outputs.len()) {
                self.elementwise.add_scaled(row, &bias[outputs.clone()], 1.0);
            }
        }
    }
}

impl Inner<'_> {
    /// # Safety
    /// No other part in use overlaps this one.
    unsafe fn store(&self, row: usize, cols: Range<usize>, values: &[f32]) {
        match self {
            // SAFETY: as the caller owes.
            Self::F32(rows) => unsafe { rows.part(row, cols) }.copy_from_slice(values),
            Self::Bf16(rows) => {
                // SAFETY: as the caller owes.
                let out = unsafe { rows.part(row, cols) };
                for (out, &value) in out.iter_mut().zip(values) {
                    *out = bf16::from_f32(value);
                }
            }
        }
    }

    /// # Safety
    /// Nobody writes while the result is in use.
    unsafe fn read(&self) -> Inputs<'_> {
        match self {
            // SAFETY: as the caller owes.
            Self::F32(rows) => Inputs::F32(unsafe { rows.all() }),
            // SAFETY: as the caller owes.
            Self::Bf16(rows) => Inputs::Bf16(unsafe { rows.all() }),
        }
    }
}

/// Cuts pairs and columns into blocks, all pairs of a column block before the next, so that its
/// weights are read from memory once.
fn for_each_block(
    pairs: Range<usize>,
    columns: Range<usize>,
    mut work: impl FnMut(Range<usize>, Range<usize>),
) {
    for first in columns.clone().step_by(BLOCK_OUTPUTS) {
        let columns = first..(first + BLOCK_OUTPUTS).min(columns.end);
        for first in pairs.clone().step_by(BLOCK_INPUTS) {
            work(first..(first + BLOCK_INPUTS).min(pairs.end), columns.clone());
        }
    }
}
