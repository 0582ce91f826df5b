//! One projection of the experts of a layer, and calls of it.

use moexperts::{
    DType,
    core::{Linear, Matrix},
    cpu::{PairsCall, expert_linear},
};
use pyo3::prelude::*;

use crate::{
    addresses,
    arguments::{
        self, Activations, BiasRows, Biases, Ids, Input, Parameter, Routes, hit, matrices, raised,
    },
    worker::{Inputs, Worker},
};

/// One projection of the experts of a layer, where torch keeps its weights.
///
/// Whoever calls it holds the tensors meanwhile; between calls they may change or go.
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
        let weights = matrices(weight, addresses::dtype(dtype)?, transposed).map_err(raised)?;
        Ok(Self { weights })
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
        let x = Input::new(x)?;
        let routes = Ids::new(&routes, tokens)?;
        let outputs = self.weights.first().map_or(0, Matrix::rows);
        let bias = bias.map(|bias| BiasRows::new(bias, [self.weights.len(), outputs]));
        let bias = bias.transpose()?;
        let compute = || {
            Worker::with(threads, Inputs::AsKernelsLike, |worker| {
                let Worker { cpu, scratch, routing, .. } = worker;
                routes.write(routing)?;
                let hit = hit(routing, self.weights.len());
                let linear = |(index, weight): (usize, &Matrix)| Linear {
                    weight: weight.clone(),
                    bias: bias.as_ref().filter(|_| hit[index]).map(|bias| bias.row(index)),
                };
                let experts: Vec<_> = self.weights.iter().enumerate().map(linear).collect();
                let pairs = routing.top_k_index().len();
                // SAFETY: Python's side holds both tensors during this call.
                let (x, out) =
                    unsafe { (x.view()?, arguments::out(out, DType::F32, [pairs, outputs])?) };
                expert_linear(PairsCall { cpu, experts: &experts, x, routing, scratch }, out)
            })
        };
        py.detach(compute).map_err(raised)
    }
}
