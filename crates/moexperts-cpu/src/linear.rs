//! Dense layers: a grouped product with one group.

use std::ops::Range;

use moexperts_core::{DeviceLinear, Error, Matrix, Result, Tensor};

use crate::{
    cpu::Cpu,
    operands::Buffer,
    product::{BLOCK_OUTPUTS, BLOCK_PANELS, Block, Inputs, Kernel, PANEL, Then},
    shared_rows::SharedRows,
};

/// Blocks of panels for each thread from which on the threads divide the rows.
const BLOCKS_PER_THREAD: usize = 4;

/// `x · weightᵀ + bias`.
///
/// Few rows are packed once for all threads, which divide the outputs, and so the weights, among
/// them. Many rows they divide themselves: each thread packs its own, a block of panels at a time,
/// and passes all weights over them while they are in its cache.
pub(crate) fn linear(cpu: &Cpu, x: &Tensor, linear: &DeviceLinear<Cpu>) -> Result<Tensor> {
    let (weight, bias) = (&linear.weight, linear.bias.as_deref());
    if x.cols() != weight.cols() {
        let (expected, got) = ([x.rows(), weight.cols()], [x.rows(), x.cols()]);
        return Err(Error::shape("input of a linear layer", expected, got));
    }
    if let Some(bias) = bias.filter(|bias| bias.len() != weight.rows()) {
        let (expected, got) = (format!("[{}]", weight.rows()), format!("[{}]", bias.len()));
        return Err(Error::Shape { what: "bias".into(), expected, got });
    }
    let mut out = Tensor::zeros(x.rows(), weight.rows());
    let kernel = Kernel::select(cpu.isa(), weight.dtype());
    let mut rounded = Buffer::default();
    let layer = Layer {
        cpu,
        kernel,
        inputs: rounded.prepare(cpu, &kernel, x.data(), x.cols()),
        weight,
        bias,
        out: SharedRows::new(out.data_mut(), weight.rows()),
    };
    let rows: Vec<u32> = (0..x.rows() as u32).collect();
    let (paneled, panels) = kernel.in_panels(x.rows());
    let (paneled, rest) = rows.split_at(paneled);
    let blocks = panels.div_ceil(BLOCK_PANELS);
    if blocks >= BLOCKS_PER_THREAD * cpu.thread_count() {
        layer.by_rows(paneled, panels.div_ceil(blocks.next_multiple_of(cpu.thread_count())));
        layer.by_columns(&[], rest);
    } else {
        layer.by_columns(paneled, rest);
    }
    Ok(out)
}

/// A call of [`linear`].
struct Layer<'a> {
    cpu: &'a Cpu,
    kernel: Kernel,
    inputs: Inputs<'a>,
    weight: &'a Matrix,
    bias: Option<&'a [f32]>,
    out: SharedRows<'a, f32>,
}

impl Layer<'_> {
    /// Rows in blocks of `block_panels` panels, the blocks divided among the threads.
    fn by_rows(&self, rows: &[u32], block_panels: usize) {
        let blocks: Vec<&[u32]> = rows.chunks(block_panels * PANEL).collect();
        self.cpu.threads().split(blocks.len(), 1, |range| {
            let mut packed = Buffer::default();
            let mut product: Block = [0.0; _];
            for rows in &blocks[range] {
                let panels = rows.len().div_ceil(PANEL);
                let panel_len = self.kernel.panel_len(self.weight.cols());
                let packed = packed.rows(&self.kernel, panels, panel_len);
                for (panel, rows) in rows.chunks(PANEL).enumerate() {
                    // SAFETY: the buffer is this thread's own.
                    unsafe { packed.pack(panel, self.inputs, rows, self.weight.cols()) };
                }
                // SAFETY: every panel is packed, and nobody writes them any more.
                let inputs = unsafe { packed.read(0..panels) };
                for first in (0..self.weight.rows()).step_by(BLOCK_OUTPUTS) {
                    let columns = first..(first + BLOCK_OUTPUTS).min(self.weight.rows());
                    // SAFETY: the rows are divided among the threads.
                    unsafe { self.lanes(inputs, rows, columns, &mut product) };
                }
            }
        });
    }

    /// Rows in panels and rows for dot products, the outputs divided among the threads.
    fn by_columns(&self, paneled: &[u32], rest: &[u32]) {
        let (cpu, kernel, weight) = (self.cpu, &self.kernel, self.weight);
        let panels = paneled.len().div_ceil(PANEL);
        let mut packed = Buffer::default();
        let packed = packed.rows(kernel, panels, kernel.panel_len(weight.cols()));
        cpu.threads().split(panels, 1, |range| {
            for panel in range {
                let rows = &paneled[panel * PANEL..paneled.len().min((panel + 1) * PANEL)];
                // SAFETY: the panels are divided among the threads.
                unsafe { packed.pack(panel, self.inputs, rows, weight.cols()) };
            }
        });
        if paneled.is_empty() && rest.is_empty() {
            return;
        }
        let grain = cpu.grain(weight.rows(), (paneled.len() + rest.len()) * weight.cols());
        cpu.threads().split(weight.rows(), grain, |columns| {
            let mut product: Block = [0.0; _];
            let end = columns.end;
            for first in columns.step_by(BLOCK_OUTPUTS) {
                let columns = first..(first + BLOCK_OUTPUTS).min(end);
                for first in (0..panels).step_by(BLOCK_PANELS) {
                    let panels = first..(first + BLOCK_PANELS).min(panels);
                    let rows = &paneled[first * PANEL..paneled.len().min(panels.end * PANEL)];
                    // SAFETY: every panel is packed, and nobody writes them any more; the columns
                    // are divided among the threads.
                    unsafe {
                        self.lanes(packed.read(panels), rows, columns.clone(), &mut product);
                    }
                }
                for rows in rest.chunks(PANEL) {
                    let then = (columns.end < end)
                        .then_some(Then { weights: weight.into(), row: columns.end });
                    // SAFETY: the columns are divided among the threads.
                    unsafe { self.dot(rows, columns.clone(), then, &mut product) };
                }
            }
        });
    }

    /// Some columns of the rows that `panels` hold.
    ///
    /// # Safety
    /// Nobody else uses these columns of these rows of the result.
    unsafe fn lanes(
        &self,
        panels: Inputs<'_>,
        rows: &[u32],
        columns: Range<usize>,
        product: &mut Block,
    ) {
        let panel = columns.len() * PANEL;
        let product = &mut product[..rows.len().div_ceil(PANEL) * panel];
        self.kernel.lanes(panels, self.weight.into(), columns.clone(), product);
        for (values, rows) in product.chunks_exact(panel).zip(rows.chunks(PANEL)) {
            for (lane, &row) in rows.iter().enumerate() {
                // SAFETY: as the caller owes.
                let out = unsafe { self.out.part(row as usize, columns.clone()) };
                for (out, values) in out.iter_mut().zip(values.chunks_exact(PANEL)) {
                    *out = values[lane];
                }
                self.add_bias(out, &columns);
            }
        }
    }

    /// Some columns of at most [`PANEL`] rows.
    ///
    /// # Safety
    /// As for [`lanes`](Self::lanes).
    unsafe fn dot(
        &self,
        rows: &[u32],
        columns: Range<usize>,
        then: Option<Then<'_>>,
        product: &mut Block,
    ) {
        let product = &mut product[..rows.len() * columns.len()];
        self.kernel.dot(self.inputs, rows, self.weight.into(), columns.clone(), then, product);
        for (&row, values) in rows.iter().zip(product.chunks_exact(columns.len())) {
            // SAFETY: as the caller owes.
            let out = unsafe { self.out.part(row as usize, columns.clone()) };
            out.copy_from_slice(values);
            self.add_bias(out, &columns);
        }
    }

    fn add_bias(&self, out: &mut [f32], columns: &Range<usize>) {
        if let Some(bias) = self.bias {
            self.cpu.elementwise().add_scaled(out, &bias[columns.clone()], 1.0);
        }
    }
}
