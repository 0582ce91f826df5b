//! Dense layers: a grouped product with one group.

use std::ops::Range;

use moexperts_core::{DeviceLinear, Matrix, Result, Scratch, Tensor, checks};

use crate::{
    cpu::Cpu,
    operands::Buffer,
    product::{BlockResults, Inputs, Kernel, PANEL, Then},
    shared_rows::SharedRows,
    threads::{PerThread, Workspaces},
};

/// Blocks of panels for each thread from which on the threads divide the rows: with fewer, a thread
/// that is late would hold up the others.
const BLOCKS_PER_THREAD: usize = 4;

/// Layers of one input whose outputs are divided among the threads like those of one layer: the
/// three projections of attention, or gate and up, and one more.
const AT_ONCE: usize = 4;

/// Buffers of one caller.
#[derive(Debug, Default)]
struct Workspace {
    /// 0, 1, 2, …
    rows: Vec<u32>,
    rounded: Buffer,
    packed: Buffer,
    threads: PerThread<ThreadWorkspace>,
}

/// Buffers of one thread.
#[derive(Debug, Default)]
struct ThreadWorkspace {
    packed: Buffer,
    product: BlockResults,
}

/// `outs[i] = x · linears[i].weightᵀ + linears[i].bias`.
///
/// Few rows are packed once for all threads, which divide the outputs, and so the weights. Where
/// there are many rows, the threads divide the rows: each packs a block of panels at a time and
/// passes all weights over it while it is in the thread's cache.
pub(crate) fn linear(
    cpu: &Cpu,
    x: &Tensor,
    linears: &[&DeviceLinear<Cpu>],
    scratch: &mut Scratch,
    outs: &mut [Tensor],
) -> Result<()> {
    checks::count("results of linear layers", outs.len(), linears.len())?;
    for (linear, out) in linears.iter().zip(&mut *outs) {
        let weight = [linear.weight.rows(), linear.weight.cols()];
        checks::linear(x.shape(), weight, linear.bias.as_ref().map(Vec::len))?;
        out.reset(x.rows(), linear.weight.rows());
    }
    let workspace = scratch.slot::<Workspace>();
    let known = workspace.rows.len() as u32;
    workspace.rows.extend(known..known.max(x.rows() as u32));
    let (mut linears, mut outs) = (linears, outs);
    while let Some(first) = linears.first() {
        let format = first.weight.format();
        checks::format(cpu, format)?;
        let alike = linears.iter().take_while(|linear| linear.weight.format() == format).count();
        let (these, others) = linears.split_at(alike.min(AT_ONCE));
        let (these_outs, other_outs) = std::mem::take(&mut outs).split_at_mut(these.len());
        run(cpu, x, these, workspace, these_outs);
        (linears, outs) = (others, other_outs);
    }
    Ok(())
}

/// At most [`AT_ONCE`] layers of one format.
fn run(
    cpu: &Cpu,
    x: &Tensor,
    linears: &[&DeviceLinear<Cpu>],
    workspace: &mut Workspace,
    outs: &mut [Tensor],
) {
    let kernel = cpu.kernel(linears[0].weight.format());
    let Workspace { rows, rounded, packed, threads } = workspace;
    let workspaces = &threads.of(cpu.threads());
    let mut outs = outs.iter_mut();
    let parts: [Option<LayerPart<'_>>; AT_ONCE] = std::array::from_fn(|index| {
        let (linear, out) = (linears.get(index)?, outs.next()?);
        let (weight, bias) = (&linear.weight, linear.bias.as_deref());
        Some(LayerPart { weight, bias, out: SharedRows::new(out.data_mut(), weight.rows()) })
    });
    let inputs = rounded.prepare(cpu, &kernel, x.into());
    let call = LinearCall { cpu, kernel, inputs, cols: x.cols(), parts, workspaces };
    let (paneled, panels) = kernel.in_panels(x.rows());
    let (paneled, rest) = rows[..x.rows()].split_at(paneled);
    let blocks = panels.div_ceil(kernel.block_panels());
    if blocks >= BLOCKS_PER_THREAD * cpu.thread_count() {
        call.by_rows(paneled, panels.div_ceil(blocks.next_multiple_of(cpu.thread_count())));
        call.by_columns(&[], rest, packed);
    } else {
        call.by_columns(paneled, rest, packed);
    }
}

/// A call of [`run`].
struct LinearCall<'a> {
    cpu: &'a Cpu,
    kernel: Kernel,
    inputs: Inputs<'a>,
    cols: usize,
    parts: [Option<LayerPart<'a>>; AT_ONCE],
    workspaces: &'a Workspaces<'a, ThreadWorkspace>,
}

/// A layer and where its result goes.
struct LayerPart<'a> {
    weight: &'a Matrix,
    bias: Option<&'a [f32]>,
    out: SharedRows<'a, f32>,
}

impl LinearCall<'_> {
    fn parts(&self) -> impl Iterator<Item = &LayerPart<'_>> {
        self.parts.iter().flatten()
    }

    /// Rows in blocks of `block_panels` panels, the blocks divided among the threads.
    fn by_rows(&self, rows: &[u32], block_panels: usize) {
        let block = block_panels * PANEL;
        self.cpu.threads().split(rows.len().div_ceil(block), 1, |range| {
            // SAFETY: once in this part of a `split`, which starts no other parallel work.
            let workspace = unsafe { self.workspaces.own() };
            let ThreadWorkspace { packed, product: BlockResults(product) } = workspace;
            let rows = &rows[range.start * block..rows.len().min(range.end * block)];
            for rows in rows.chunks(block) {
                let panels = rows.len().div_ceil(PANEL);
                let packed = packed.rows(&self.kernel, panels, self.kernel.panel_len(self.cols));
                for (panel, rows) in rows.chunks(PANEL).enumerate() {
                    // SAFETY: the buffer is part of this thread's workspace.
                    unsafe { packed.pack(panel, self.inputs, rows, self.cols) };
                }
                // SAFETY: the loop above has packed the panels; they are written again in the next
                // turn, when `inputs` is gone.
                let inputs = unsafe { packed.read(0..panels) };
                for part in self.parts() {
                    for columns in chunks(0..part.weight.rows(), self.kernel.block_outputs()) {
                        // SAFETY: `split` gives each row to one part.
                        unsafe { self.lanes(part, inputs, rows, columns, product) };
                    }
                }
            }
        });
    }

    /// Rows in panels and rows for dot products, the outputs divided among the threads.
    fn by_columns(&self, paneled: &[u32], rest: &[u32], packed: &mut Buffer) {
        if paneled.is_empty() && rest.is_empty() {
            return;
        }
        let (cpu, kernel) = (self.cpu, &self.kernel);
        let panels = paneled.len().div_ceil(PANEL);
        let packed = packed.rows(kernel, panels, kernel.panel_len(self.cols));
        cpu.threads().split(panels, 1, |range| {
            for panel in range {
                let rows = &paneled[panel * PANEL..paneled.len().min((panel + 1) * PANEL)];
                // SAFETY: `split` gives each panel to one part.
                unsafe { packed.pack(panel, self.inputs, rows, self.cols) };
            }
        });
        let outputs: usize = self.parts().map(|part| part.weight.rows()).sum();
        let grain = cpu.grain(outputs, (paneled.len() + rest.len()) * self.cols);
        cpu.threads().split(outputs, grain, |range| {
            // SAFETY: once in this part of a `split`, which starts no other parallel work.
            let workspace = unsafe { self.workspaces.own() };
            let ThreadWorkspace { product: BlockResults(product), .. } = workspace;
            let mut first = 0;
            for (index, part) in self.parts().enumerate() {
                let place = |output: usize| output.clamp(first, first + part.weight.rows()) - first;
                let columns = place(range.start)..place(range.end);
                first += part.weight.rows();
                let next = self.parts().nth(index + 1).filter(|_| first < range.end);
                let next = next.map(|next| Then { weights: next.weight.into(), row: 0 });
                let end = columns.end;
                for columns in chunks(columns, kernel.block_outputs()) {
                    for panels in chunks(0..panels, kernel.block_panels()) {
                        let rows = panels.start * PANEL..paneled.len().min(panels.end * PANEL);
                        // SAFETY: the `split` above has packed all panels, and nothing writes them
                        // after it; this `split` gives each output to one part.
                        unsafe {
                            let (inputs, rows) = (packed.read(panels), &paneled[rows]);
                            self.lanes(part, inputs, rows, columns.clone(), product);
                        }
                    }
                    for rows in rest.chunks(PANEL) {
                        let then = Then { weights: part.weight.into(), row: columns.end };
                        let then = if columns.end < end { Some(then) } else { next };
                        // SAFETY: this `split` gives each output to one part.
                        unsafe { self.dot(part, rows, columns.clone(), then, product) };
                    }
                }
            }
        });
    }

    /// Some columns of the rows that `panels` hold.
    ///
    /// # Safety
    /// No other thread uses these columns of these rows of the result.
    unsafe fn lanes(
        &self,
        part: &LayerPart<'_>,
        panels: Inputs<'_>,
        rows: &[u32],
        columns: Range<usize>,
        product: &mut [f32],
    ) {
        let panel = columns.len() * PANEL;
        let product = &mut product[..rows.len().div_ceil(PANEL) * panel];
        self.kernel.lanes(panels, part.weight.into(), columns.clone(), product);
        for (values, rows) in product.chunks_exact(panel).zip(rows.chunks(PANEL)) {
            for (lane, &row) in rows.iter().enumerate() {
                // SAFETY: no other thread uses these columns of this row, by this function's
                // contract, and `out` ends with this turn.
                let out = unsafe { part.out.part(row as usize, columns.clone()) };
                for (out, values) in out.iter_mut().zip(values.chunks_exact(PANEL)) {
                    *out = values[lane];
                }
                self.add_bias(part, out, &columns);
            }
        }
    }

    /// Some columns of at most [`PANEL`] rows.
    ///
    /// # Safety
    /// As for [`lanes`](Self::lanes).
    unsafe fn dot(
        &self,
        part: &LayerPart<'_>,
        rows: &[u32],
        columns: Range<usize>,
        then: Option<Then<'_>>,
        product: &mut [f32],
    ) {
        let product = &mut product[..rows.len() * columns.len()];
        self.kernel.dot(self.inputs, rows, part.weight.into(), columns.clone(), then, product);
        for (&row, values) in rows.iter().zip(product.chunks_exact(columns.len())) {
            // SAFETY: no other thread uses these columns of this row, by this function's contract,
            // and `out` ends with this turn.
            let out = unsafe { part.out.part(row as usize, columns.clone()) };
            out.copy_from_slice(values);
            self.add_bias(part, out, &columns);
        }
    }

    fn add_bias(&self, part: &LayerPart<'_>, out: &mut [f32], columns: &Range<usize>) {
        if let Some(bias) = part.bias {
            self.cpu.elementwise().add_scaled(out, &bias[columns.clone()], 1.0);
        }
    }
}

/// Neighbouring ranges of at most `len` that together are `range`.
pub(crate) fn chunks(range: Range<usize>, len: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(len).map(move |start| start..end.min(start + len))
}
