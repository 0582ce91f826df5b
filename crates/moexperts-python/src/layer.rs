//! The experts of a layer where torch keeps them, and calls of them.

use moexperts_core::{
    Activation, Error, Expert, Experts, ExpertsSpec, Linear, Matrix, Result, Routing,
};
use moexperts_cpu::{BatchedMm, Cpu, Eager, GroupedMm, RowsBackend, RowsCall};
use pyo3::{exceptions::PyValueError, prelude::*};

use crate::{
    addresses,
    arguments::{
        Activations, BiasRows, Biases, Ids, Input, Output, Parameter, Routes, hit, matrices, raised,
    },
    worker::{Inputs, Worker},
};

fn backend(name: &str) -> PyResult<&'static dyn RowsBackend> {
    let backends: [&'static dyn RowsBackend; 3] = [&Eager, &BatchedMm, &GroupedMm];
    backends.into_iter().find(|backend| backend.name() == name).ok_or_else(|| {
        let names = backends.map(|backend| format!("`{}`", backend.name())).join(", ");
        PyValueError::new_err(format!("backend `{name}` is not known, expected one of {names}"))
    })
}

fn activation(name: &str, alpha: f32, limit: f32) -> PyResult<Activation> {
    match name {
        "silu" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_tanh" => Ok(Activation::GeluTanh),
        "relu2" => Ok(Activation::Relu2),
        "clamped_swiglu" => Ok(Activation::ClampedSwiglu { alpha, limit }),
        "clamped_silu" => Ok(Activation::ClampedSilu { limit }),
        _ => Err(PyValueError::new_err(format!(
            "activation `{name}` is not known, expected one of `silu`, `gelu`, `gelu_tanh`, \
             `relu2`, `clamped_swiglu`, `clamped_silu`"
        ))),
    }
}

/// How the rows of gate and up lie in `gate_up_proj`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GateUp {
    /// All gate rows before all up rows.
    Concatenated,
    /// In turn.
    Interleaved,
}

/// The experts of one layer, where torch keeps their weights.
///
/// The caller of a method holds the tensors during the call; between calls they may change or be freed.
#[pyclass(frozen, module = "moexperts._native")]
pub(crate) struct Layer {
    spec: ExpertsSpec,
    gate_up: GateUp,
    /// Without biases: these are read anew by each call.
    experts: Experts<Cpu>,
    inputs: Inputs,
}

#[pymethods]
impl Layer {
    /// Describes parameters `gate_up_proj` (`up_proj` if not gated) and `down_proj`.
    ///
    /// - `unrounded`: inputs of products stay in float32, where a faster kernel would round them to
    ///   the dtype of the weights
    #[new]
    #[pyo3(signature = (gate_up, down, dtype, *, gated, interleaved, transposed, activation, alpha, limit, unrounded))]
    #[expect(clippy::too_many_arguments, reason = "each is a word of Python's side")]
    fn new(
        gate_up: Parameter,
        down: Parameter,
        dtype: &str,
        gated: bool,
        interleaved: bool,
        transposed: bool,
        activation: &str,
        alpha: f32,
        limit: f32,
        unrounded: bool,
    ) -> PyResult<Self> {
        let dtype = addresses::dtype(dtype)?;
        let activation = self::activation(activation, alpha, limit)?;
        // SAFETY: the matrices are read in `forward` alone. Python's side looks a layer up by address,
        // shape, strides and dtype of two tensors that it holds during the call.
        let (gate_ups, downs) =
            unsafe { (matrices(gate_up, dtype, transposed), matrices(down, dtype, transposed)) };
        let (gate_ups, downs) = (gate_ups.map_err(raised)?, downs.map_err(raised)?);
        let (hidden, intermediate) =
            downs.first().map_or((0, 0), |down| (down.rows(), down.cols()));
        let gate_up = if interleaved { GateUp::Interleaved } else { GateUp::Concatenated };
        let spec = ExpertsSpec::gated_silu(hidden, intermediate, downs.len(), dtype.into());
        let spec = spec.with_activation(activation);
        let spec = if gated { spec } else { spec.ungated() };
        if gate_ups.len() != downs.len() {
            return Err(PyValueError::new_err(format!(
                "gate_up_proj has {} experts, down_proj has {}",
                gate_ups.len(),
                downs.len()
            )));
        }
        let experts = gate_ups.into_iter().zip(downs);
        let experts = experts.map(|(both, down)| expert(&spec, gate_up, &both, down));
        let experts = experts.collect::<Result<_>>().map_err(raised)?;
        let experts = Experts::resident(spec, experts).map_err(raised)?;
        let inputs = if unrounded { Inputs::Unrounded } else { Inputs::AsKernelsLike };
        Ok(Self { spec, gate_up, experts, inputs })
    }

    /// Computes the layer into `out`, [T, H] of the dtype of `x`, contiguous.
    #[pyo3(signature = (backend, threads, x, routes, biases, out))]
    #[expect(clippy::too_many_arguments, reason = "each is a word of Python's side")]
    fn forward(
        &self,
        py: Python<'_>,
        backend: &str,
        threads: usize,
        x: Activations,
        routes: Routes,
        biases: Option<[Biases; 2]>,
        out: usize,
    ) -> PyResult<()> {
        let backend = self::backend(backend)?;
        // SAFETY: Python's side made these arguments of tensors that it holds during this call, `out`
        // among them, which it has just allocated as [T, H] in the dtype of `x`.
        let (x, routes, biases, mut out) = unsafe {
            let x = Input::new(x)?;
            let routes = Ids::new(&routes, x.rows)?;
            let biases = biases.map(|biases| self.biases(biases)).transpose()?;
            let out = Output::new(out, x.dtype(), [x.rows, self.spec.hidden]);
            (x, routes, biases, out)
        };
        let compute = move || {
            Worker::with(threads, self.inputs, |worker| {
                let Worker { cpu, scratch, routing, .. } = worker;
                routes.write(routing)?;
                let with_biases;
                let experts = match &biases {
                    None => &self.experts,
                    Some([gate_up, down]) => {
                        with_biases = self.with_biases(routing, gate_up, down)?;
                        &with_biases
                    }
                };
                let call = RowsCall { cpu, experts, x: x.view()?, routing, scratch };
                backend.forward_rows(call, out.view()?)
            })
        };
        py.detach(compute).map_err(raised)
    }
}

impl Layer {
    /// # Safety
    /// As for [`BiasRows::new`].
    unsafe fn biases(&self, [gate_up, down]: [Biases; 2]) -> PyResult<[BiasRows; 2]> {
        let ExpertsSpec { experts, gated, hidden, intermediate, .. } = self.spec;
        let up = if gated { 2 * intermediate } else { intermediate };
        // SAFETY: the function requires of both tensors what `BiasRows::new` does.
        unsafe {
            Ok([BiasRows::new(gate_up, [experts, up])?, BiasRows::new(down, [experts, hidden])?])
        }
    }

    /// The experts with the biases of those that are hit.
    fn with_biases(
        &self,
        routing: &Routing,
        gate_up: &BiasRows,
        down: &BiasRows,
    ) -> Result<Experts<Cpu>> {
        let spec = self.spec.with_bias();
        let hit = hit(routing, spec.experts);
        let expert = |(index, hit): (usize, &bool)| {
            let Expert { gate_proj, up_proj, down_proj } = self.experts.expert(index);
            let with = |linear: &Linear<Matrix, Vec<f32>>, bias: Vec<f32>| Linear {
                weight: linear.weight.clone(),
                bias: Some(bias),
            };
            let (both, down) =
                if *hit { (gate_up.row(index), down.row(index)) } else { (Vec::new(), Vec::new()) };
            let (gate, up) = match (&gate_proj, self.gate_up) {
                (None, _) => (Vec::new(), both),
                (Some(_), GateUp::Interleaved) => {
                    let of = |first: usize| both.iter().skip(first).step_by(2).copied().collect();
                    (of(0), of(1))
                }
                (Some(_), GateUp::Concatenated) => {
                    let (gate, up) = both.split_at(both.len() / 2);
                    (gate.to_vec(), up.to_vec())
                }
            };
            Expert {
                gate_proj: gate_proj.as_ref().map(|linear| with(linear, gate)),
                up_proj: with(up_proj, up),
                down_proj: with(down_proj, down),
            }
        };
        Experts::resident(spec, hit.iter().enumerate().map(expert).collect())
    }
}

fn expert(
    spec: &ExpertsSpec,
    gate_up: GateUp,
    both: &Matrix,
    down: Matrix,
) -> Result<Expert<Matrix, Vec<f32>>> {
    let linear = |weight: Matrix| Linear { weight, bias: None };
    let rows = both.rows();
    let expected = if spec.gated { 2 * spec.intermediate } else { spec.intermediate };
    if [rows, both.cols()] != [expected, spec.hidden] {
        let got = [rows, both.cols()];
        return Err(Error::shape("gate_up_proj of an expert", [expected, spec.hidden], got));
    }
    let (gate, up) = match (spec.gated, gate_up) {
        (false, _) => (None, both.clone()),
        (true, GateUp::Interleaved) => {
            (Some(both.rows_stepped(0..rows, 2)), both.rows_stepped(1.min(rows)..rows, 2))
        }
        (true, GateUp::Concatenated) => {
            (Some(both.row_range(0..rows / 2)), both.row_range(rows / 2..rows))
        }
    };
    Ok(Expert { gate_proj: gate.map(linear), up_proj: linear(up), down_proj: linear(down) })
}
