//! Buffers of values in the dtype a kernel multiplies.

use std::ops::Range;

use half::bf16;
use moexperts_core::{DType, Elements};

use crate::{
    cpu::Cpu,
    product::{Inputs, Kernel, PANEL},
    rows::{self, Rows},
    shared_rows::SharedRows,
};

/// A buffer that grows to the largest use and stays.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    f32: Vec<f32>,
    bf16: Vec<bf16>,
}

impl Buffer {
    /// `rows` rows of `cols` values of the kernel's inputs. They hold what an earlier use left
    /// there.
    pub(crate) fn rows(&mut self, kernel: &Kernel, rows: usize, cols: usize) -> Operands<'_> {
        match kernel.inputs() {
            DType::Bf16 => Operands::Bf16(SharedRows::new(
                grown(&mut self.bf16, rows * cols, bf16::ZERO),
                cols,
            )),
            DType::F32 | DType::F16 => {
                Operands::F32(SharedRows::new(grown(&mut self.f32, rows * cols, 0.0), cols))
            }
        }
    }

    /// Activations as the kernel takes them: where they lie, or widened or rounded into this
    /// buffer.
    pub(crate) fn prepare<'a>(&'a mut self, cpu: &Cpu, kernel: &Kernel, x: Rows<'a>) -> Inputs<'a> {
        match (kernel.inputs(), x.packed()) {
            (DType::Bf16, Some(Elements::Bf16(values))) => return Inputs::Bf16(values),
            (DType::F32 | DType::F16, Some(Elements::F32(values))) => return Inputs::F32(values),
            _ => {}
        }
        let [rows, cols] = x.shape();
        match kernel.inputs() {
            DType::Bf16 => {
                let rounded = grown(&mut self.bf16, rows * cols, bf16::ZERO);
                cpu.for_each_row(rounded, cols, |row, out| {
                    rows::to_bf16(cpu.elementwise(), x.row(row), out);
                });
                Inputs::Bf16(rounded)
            }
            DType::F32 | DType::F16 => {
                let wide = grown(&mut self.f32, rows * cols, 0.0);
                cpu.for_each_row(wide, cols, |row, out| x.row(row).write_f32(out));
                Inputs::F32(wide)
            }
        }
    }
}

/// The first `len` values of a buffer that grows to them.
fn grown<T: Clone>(buffer: &mut Vec<T>, len: usize, zero: T) -> &mut [T] {
    buffer.resize(len.max(buffer.len()), zero);
    &mut buffer[..len]
}

/// Rows that several threads write, each its own rows or columns, and a kernel reads.
pub(crate) enum Operands<'a> {
    F32(SharedRows<'a, f32>),
    Bf16(SharedRows<'a, bf16>),
}

impl Operands<'_> {
    /// Writes columns of a row.
    ///
    /// # Safety
    /// No other thread uses these columns of this row.
    pub(crate) unsafe fn store(&self, cpu: &Cpu, row: usize, cols: Range<usize>, values: &[f32]) {
        match self {
            // SAFETY: no other thread uses the part, by this function's contract.
            Self::F32(rows) => unsafe { rows.part(row, cols) }.copy_from_slice(values),
            // SAFETY: no other thread uses the part, by this function's contract.
            Self::Bf16(rows) => cpu.elementwise().round(values, unsafe { rows.part(row, cols) }),
        }
    }

    /// Writes columns of a panel: [`PANEL`] values for each.
    ///
    /// # Safety
    /// No other thread uses these columns of this panel; the first of them is even.
    pub(crate) unsafe fn store_panel(
        &self,
        cpu: &Cpu,
        panel: usize,
        cols: Range<usize>,
        values: &[f32],
    ) {
        let cells = cols.start * PANEL..cols.end * PANEL;
        match self {
            // SAFETY: no other thread uses these columns, by this function's contract.
            Self::F32(panels) => unsafe { panels.part(panel, cells) }.copy_from_slice(values),
            Self::Bf16(panels) => {
                // A pair of columns lies side by side; of an odd last one the second is zero.
                let cells = cells.start..cells.end.next_multiple_of(2 * PANEL);
                // SAFETY: no other thread uses these columns, by this function's contract; the
                // first is even, so none of the pairs is shared with columns of another thread.
                let out = unsafe { panels.part(panel, cells) };
                let (rounded, partner) = out.split_at_mut(values.len());
                cpu.elementwise().round(values, rounded);
                partner.fill(bf16::ZERO);
                for pair in out.as_chunks_mut::<{ 2 * PANEL }>().0 {
                    let columns = *pair;
                    for lane in 0..PANEL {
                        pair[2 * lane] = columns[lane];
                        pair[2 * lane + 1] = columns[PANEL + lane];
                    }
                }
            }
        }
    }

    /// Packs input rows into a panel.
    ///
    /// # Safety
    /// No other thread uses this panel.
    pub(crate) unsafe fn pack(&self, panel: usize, inputs: Inputs<'_>, rows: &[u32], cols: usize) {
        match (self, inputs) {
            (Self::F32(panels), Inputs::F32(x)) => {
                // SAFETY: no other thread uses the panel, by this function's contract.
                crate::product::pack(x, rows, cols, unsafe { panels.row(panel) });
            }
            (Self::Bf16(panels), Inputs::Bf16(x)) => {
                // SAFETY: no other thread uses the panel, by this function's contract.
                crate::product::pack(x, rows, cols, unsafe { panels.row(panel) });
            }
            _ => unreachable!("inputs and panels are made for the same kernel"),
        }
    }

    /// Some of the rows.
    ///
    /// # Safety
    /// No thread writes them while the result is in use.
    pub(crate) unsafe fn read(&self, rows: Range<usize>) -> Inputs<'_> {
        match self {
            // SAFETY: no thread writes the rows meanwhile, by this function's contract.
            Self::F32(all) => Inputs::F32(unsafe { all.rows(rows) }),
            // SAFETY: no thread writes the rows meanwhile, by this function's contract.
            Self::Bf16(all) => Inputs::Bf16(unsafe { all.rows(rows) }),
        }
    }
}
