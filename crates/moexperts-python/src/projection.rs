//! One projection of the experts of a layer, and calls of it.

use moexperts_core::{DType, Linear, Matrix};
use moexperts_cpu::{PairsCall, expert_linear};
use pyo3::prelude::*;

use crate::{
    addresses,
    arguments::{
        Activations, BiasRows, Biases, Ids, Input, Output, Parameter, Routes, hit, matrices, raised,
    },
    worker::{Inputs, Worker},
};

/// One projection of the experts of a layer, where torch keeps its weights.
///
/// The caller of a method holds the tensors during the call; between calls they may change or be freed.
#[pyclass(frozen, module = "moexperts._native")]
pub(crate) struct Projection {
    weights: Vec<Matrix>,
}

#[pymethods]
impl Projection {
    /// Describes a parameter [E, out, in], or [E, in, out] if transposed.
    #[new]
    #[pyo3(signature = (weight, dtype, *, transposed))]
    fn new(weight: Parameter, dtype: &str, transposed: bool) -> PyResult<Self> {
        // SAFETY: the matrices are read in `forward` alone. Python's side looks a projection up by address,
        // shape, strides and dtype of a tensor that it holds during the call.
        let weights = unsafe { matrices(weight, addresses::dtype(dtype)?, transposed) };
        Ok(Self { weights: weights.map_err(raised)? })
    }

    /// Computes `out[t · K + k] = weight[ids[t, k]] · x + bias[ids[t, k]]` of row t of `x`, or of row
    /// t · K + k if it has one for each pair: [T · K, out] in float32, contiguous.
    #[pyo3(signature = (threads, x, tokens, routes, bias, out))]
    #[expect(clippy::too_many_arguments, reason = "each is a word of Python's side")]
    fn forward(
        &self,
        py: Python<'_>,
        threads: usize,
        x: Activations,
        tokens: usize,
        routes: Routes,
        bias: Option<Biases>,
        out: usize,
    ) -> PyResult<()> {
        let outputs = self.weights.first().map_or(0, Matrix::rows);
        // SAFETY: Python's side made these arguments of tensors that it holds during this call, `out`
        // among them, which it has just allocated as [T · K, out] in float32.
        let (x, routes, bias, mut out) = unsafe {
            let x = Input::new(x)?;
            let bias = bias.map(|bias| BiasRows::new(bias, [self.weights.len(), outputs]));
            let (.., top_k) = routes;
            let out = Output::new(out, DType::F32, [tokens * top_k, outputs]);
            (x, Ids::new(&routes, tokens)?, bias.transpose()?, out)
        };
        let compute = move || {
            Worker::with(threads, Inputs::AsKernelsLike, |worker| {
                let Worker { cpu, scratch, routing, .. } = worker;
                routes.write(routing)?;
                let hit = hit(routing, self.weights.len());
                let linear = |(index, weight): (usize, &Matrix)| Linear {
                    weight: weight.clone(),
                    bias: bias.as_ref().filter(|_| hit[index]).map(|bias| bias.row(index)),
                };
                let experts: Vec<_> = self.weights.iter().enumerate().map(linear).collect();
                let call = PairsCall { cpu, experts: &experts, x: x.view()?, routing, scratch };
                expert_linear(call, out.view()?)
            })
        };
        py.detach(compute).map_err(raised)
    }
}
