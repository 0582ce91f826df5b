//! Dense layers: a grouped product with one group.

use moexperts_core::{DeviceLinear, Error, Result, Tensor};

use crate::{
    cpu::Cpu,
    operands::Buffer,
    product::{BLOCK_OUTPUTS, BLOCK_PANELS, Block, Kernel, PANEL, Then},
    shared_rows::SharedRows,
};

/// `x · weightᵀ + bias`, the outputs divided among the threads.
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
    let [mut rounded, mut packed] = [(); 2].map(|()| Buffer::default());
    let inputs = rounded.prepare(cpu, &kernel, x.data(), x.cols());
    let rows: Vec<u32> = (0..x.rows() as u32).collect();
    let (paneled, panels) = kernel.in_panels(x.rows());
    let (paneled, rest) = rows.split_at(paneled);
    let packed = packed.rows(&kernel, panels, kernel.panel_len(x.cols()));
    cpu.threads().split(panels, 1, |range| {
        for panel in range {
            let rows = &paneled[panel * PANEL..paneled.len().min((panel + 1) * PANEL)];
            // SAFETY: the panels are divided among the threads.
            unsafe { packed.pack(panel, inputs, rows, x.cols()) };
        }
    });
    let shared = SharedRows::new(out.data_mut(), weight.rows());
    let grain = cpu.grain(weight.rows(), x.rows() * x.cols());
    cpu.threads().split(weight.rows(), grain, |columns| {
        let mut block: Block = [0.0; _];
        let end = columns.end;
        for first in columns.clone().step_by(BLOCK_OUTPUTS) {
            let columns = first..(first + BLOCK_OUTPUTS).min(columns.end);
            let store = |row: u32, values: &mut dyn Iterator<Item = f32>| {
                // SAFETY: the columns are divided among the threads.
                let out = unsafe { shared.part(row as usize, columns.clone()) };
                for (out, value) in out.iter_mut().zip(values) {
                    *out = value;
                }
                if let Some(bias) = bias {
                    cpu.elementwise().add_scaled(out, &bias[columns.clone()], 1.0);
                }
            };
            for first in (0..panels).step_by(BLOCK_PANELS) {
                let panels = first..(first + BLOCK_PANELS).min(panels);
                let product = &mut block[..panels.len() * columns.len() * PANEL];
                // SAFETY: every panel is packed, and nobody writes them any more.
                let inputs = unsafe { packed.read(panels) };
                kernel.lanes(inputs, weight.into(), columns.clone(), product);
                let rows = paneled[first * PANEL..].chunks(PANEL);
                for (values, rows) in product.chunks_exact(columns.len() * PANEL).zip(rows) {
                    for (lane, &row) in rows.iter().enumerate() {
                        store(row, &mut values.iter().skip(lane).step_by(PANEL).copied());
                    }
                }
            }
            for rows in rest.chunks(PANEL) {
                let product = &mut block[..rows.len() * columns.len()];
                let weights = weight.into();
                let then = (columns.end < end).then_some(Then { weights, row: columns.end });
                kernel.dot(inputs, rows, weights, columns.clone(), then, product);
                for (&row, values) in rows.iter().zip(product.chunks_exact(columns.len())) {
                    store(row, &mut values.iter().copied());
                }
            }
        }
    });
    Ok(out)
}
