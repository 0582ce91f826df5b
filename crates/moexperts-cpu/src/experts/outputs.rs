//! Some outputs of a projection, as the kernels read them.

use std::ops::Range;

use moexperts_core::{Linear, Matrix};

use crate::{
    cpu::Cpu,
    product::{Gathered, Inputs, Kernel, PANEL, Then, Weights},
};

/// Neighbouring outputs: rows of weights where they lie, or gathered, and their biases.
pub(super) struct Outputs<'a> {
    weights: Weights<'a>,
    /// Which rows of `weights` they are.
    rows: Range<usize>,
    bias: Option<&'a [f32]>,
}

impl<'a> Outputs<'a> {
    pub(super) fn of(
        linear: &'a Linear<Matrix, Vec<f32>>,
        columns: &Range<usize>,
        gathered: &'a mut Gathered,
    ) -> Self {
        let (weights, rows) = gathered.rows(&linear.weight, columns.clone());
        let bias = linear.bias.as_deref().map(|bias| &bias[columns.clone()]);
        Self { weights, rows, bias }
    }

    /// Products of panels, biases added: [panels, outputs, PANEL].
    pub(super) fn lanes(&self, kernel: &Kernel, panels: Inputs<'_>, out: &mut [f32]) {
        kernel.lanes(panels, self.weights, self.rows.clone(), out);
        if let Some(bias) = self.bias {
            for out in out.chunks_exact_mut(bias.len() * PANEL) {
                for (bias, column) in bias.iter().zip(out.chunks_exact_mut(PANEL)) {
                    column.iter_mut().for_each(|value| *value += bias);
                }
            }
        }
    }

    /// Products of some of the input rows, biases added: [rows, outputs].
    pub(super) fn dot(
        &self,
        cpu: &Cpu,
        kernel: &Kernel,
        (inputs, rows): (Inputs<'_>, &[u32]),
        then: Option<Then<'_>>,
        out: &mut [f32],
    ) {
        kernel.dot(inputs, rows, self.weights, self.rows.clone(), then, out);
        if let Some(bias) = self.bias {
            for row in out.chunks_exact_mut(bias.len()) {
                cpu.elementwise().add_scaled(row, bias, 1.0);
            }
        }
    }
}
