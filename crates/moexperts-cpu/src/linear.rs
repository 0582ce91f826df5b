//! Dense layers: a grouped product with one group.

use std::ops::Range;

use moexperts_core::{DeviceLinear, Matrix, Result, Scratch, Tensor, checks};

use crate::{
    cpu::Cpu,
    operands::Buffer,
    product::{Block, Inputs, Kernel, PANEL, Then},
    shared_rows::SharedRows,
    threads::{PerThread, Rooms},
};

/// Blocks of panels for each thread from which on the threads divide the rows.
const BLOCKS_PER_THREAD: usize = 4;

/// Layers of one input whose outputs are divided among the threads as if they were one's.
const AT_ONCE: usize = 4;

/// Room of one caller.
#[derive(Debug, Default)]
struct Room {
    /// 0, 1, 2, …
    rows: Vec<u32>,
    rounded: Buffer,
    packed: Buffer,
    threads: PerThread<ThreadRoom>,
}

/// Room of one thread.
#[derive(Debug, Default)]
struct ThreadRoom {
    packed: Buffer,
    product: Block,
}

/// `outs[i] = x · linears[i].weightᵀ + linears[i].bias`.
///
/// Few rows are packed once for all threads, which divide the outputs, and so the weights, among
/// them. Many rows they divide themselves: each thread packs its own, a block of panels at a time,
/// and passes all weights over them while they are in its cache.
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
    let room = scratch.slot::<Room>();
    let known = room.rows.len() as u32;
    room.rows.extend(known..known.max(x.rows() as u32));
    let (mut linears, mut outs) = (linears, outs);
    while let Some(first) = linears.first() {
        let format = first.weight.format();
        checks::format(cpu, format)?;
        let alike = linears.iter().take_while(|linear| linear.weight.format() == format).count();
        let (these, others) = linears.split_at(alike.min(AT_ONCE));
        let (these_outs, other_outs) = std::mem::take(&mut outs).split_at_mut(these.len());
        run(cpu, x, these, room, these_outs);
        (linears, outs) = (others, other_outs);
    }
    Ok(())
}

/// At most [`AT_ONCE`] layers of one format.
fn run(
    cpu: &Cpu,
    x: &Tensor,
    linears: &[&DeviceLinear<Cpu>],
    room: &mut Room,
    outs: &mut [Tensor],
) {
    let kernel = cpu.kernel(linears[0].weight.format());
    let Room { rows, rounded, packed, threads } = room;
    let rooms = &threads.rooms(cpu.threads());
    let mut outs = outs.iter_mut();
    let parts: [Option<Part<'_>>; AT_ONCE] = std::array::from_fn(|index| {
        let (linear, out) = (linears.get(index)?, outs.next()?);
        let (weight, bias) = (&linear.weight, linear.bias.as_deref());
        Some(Part { weight, bias, out: SharedRows::new(out.data_mut(), weight.rows()) })
    });
    let inputs = rounded.prepare(cpu, &kernel, x.into());
    let layers = Layers { cpu, kernel, inputs, cols: x.cols(), parts, rooms };
    let (paneled, panels) = kernel.in_panels(x.rows());
    let (paneled, rest) = rows[..x.rows()].split_at(paneled);
    let blocks = panels.div_ceil(kernel.block_panels());
    if blocks >= BLOCKS_PER_THREAD * cpu.thread_count() {
        layers.by_rows(paneled, panels.div_ceil(blocks.next_multiple_of(cpu.thread_count())));
        layers.by_columns(&[], rest, packed);
    } else {
        layers.by_columns(paneled, rest, packed);
    }
}

/// A call of [`run`].
struct Layers<'a> {
    cpu: &'a Cpu,
    kernel: Kernel,
    inputs: Inputs<'a>,
    cols: usize,
    parts: [Option<Part<'a>>; AT_ONCE],
    rooms: &'a Rooms<'a, ThreadRoom>,
}

/// A layer and where its result goes.
struct Part<'a> {
    weight: &'a Matrix,
    bias: Option<&'a [f32]>,
    out: SharedRows<'a, f32>,
}

impl Layers<'_> {
    fn parts(&self) -> impl Iterator<Item = &Part<'_>> {
        self.parts.iter().flatten()
    }

    /// Rows in blocks of `block_panels` panels, the blocks divided among the threads.
    fn by_rows(&self, rows: &[u32], block_panels: usize) {
        let block = block_panels * PANEL;
        self.cpu.threads().split(rows.len().div_ceil(block), 1, |range| {
            // SAFETY: once a part, which does nothing else.
            let ThreadRoom { packed, product: Block(product) } = unsafe { self.rooms.own() };
            let rows = &rows[range.start * block..rows.len().min(range.end * block)];
            for rows in rows.chunks(block) {
                let panels = rows.len().div_ceil(PANEL);
                let packed = packed.rows(&self.kernel, panels, self.kernel.panel_len(self.cols));
                for (panel, rows) in rows.chunks(PANEL).enumerate() {
                    // SAFETY: the buffer is this thread's own.
                    unsafe { packed.pack(panel, self.inputs, rows, self.cols) };
                }
                // SAFETY: every panel is packed, and nobody writes them any more.
                let inputs = unsafe { packed.read(0..panels) };
                for part in self.parts() {
                    for columns in chunks(0..part.weight.rows(), self.kernel.block_outputs()) {
                        // SAFETY: the rows are divided among the threads.
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
                // SAFETY: the panels are divided among the threads.
                unsafe { packed.pack(panel, self.inputs, rows, self.cols) };
            }
        });
        let outputs: usize = self.parts().map(|part| part.weight.rows()).sum();
        let grain = cpu.grain(outputs, (paneled.len() + rest.len()) * self.cols);
        cpu.threads().split(outputs, grain, |range| {
            // SAFETY: once a part, which does nothing else.
            let ThreadRoom { product: Block(product), .. } = unsafe { self.rooms.own() };
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
                        // SAFETY: every panel is packed, and nobody writes them any more; the
                        // columns are divided among the threads.
                        unsafe {
                            let (inputs, rows) = (packed.read(panels), &paneled[rows]);
                            self.lanes(part, inputs, rows, columns.clone(), product);
                        }
                    }
                    for rows in rest.chunks(PANEL) {
                        let then = Then { weights: part.weight.into(), row: columns.end };
                        let then = if columns.end < end { Some(then) } else { next };
                        // SAFETY: the columns are divided among the threads.
                        unsafe { self.dot(part, rows, columns.clone(), then, product) };
                    }
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
        part: &Part<'_>,
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
                // SAFETY: as the caller owes.
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
        part: &Part<'_>,
        rows: &[u32],
        columns: Range<usize>,
        then: Option<Then<'_>>,
        product: &mut [f32],
    ) {
        let product = &mut product[..rows.len() * columns.len()];
        self.kernel.dot(self.inputs, rows, part.weight.into(), columns.clone(), then, product);
        for (&row, values) in rows.iter().zip(product.chunks_exact(columns.len())) {
            // SAFETY: as the caller owes.
            let out = unsafe { part.out.part(row as usize, columns.clone()) };
            out.copy_from_slice(values);
            self.add_bias(part, out, &columns);
        }
    }

    fn add_bias(&self, part: &Part<'_>, out: &mut [f32], columns: &Range<usize>) {
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
