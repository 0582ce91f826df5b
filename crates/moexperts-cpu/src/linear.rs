//! Dense layers: a grouped product with one group.

use moexperts_core::{DeviceLinear, Error, Result, Tensor};

use crate::{
    cpu::Cpu,
    product::{BLOCK_INPUTS, BLOCK_OUTPUTS, Kernel},
    shared_rows::SharedRows,
};

/// `x · weightᵀ + bias`, the outputs divided among the threads.
pub(crate) fn linear(cpu: &Cpu, x: &Tensor, linear: &DeviceLinear<Cpu>) -> Result<Tensor> {
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
    let kernel = Kernel::select(cpu.isa(), weight.dtype());
    let mut rounded = Vec::new();
    let inputs = kernel.prepare(x.data(), &mut rounded);
    let rows: Vec<u32> = (0..x.rows() as u32).collect();
    let shared = SharedRows::new(out.data_mut(), weight.rows());
    let grain = Cpu::grain(x.rows() * x.cols());
    cpu.threads().split(weight.rows(), grain, |columns| {
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
                        cpu.elementwise().add_scaled(out, &bias[columns.clone()], 1.0);
                    }
                }
            }
        }
    });
    Ok(out)
}
