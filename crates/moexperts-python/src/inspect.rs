//! The facts of [`moexperts_cpu::inspect`] as dicts.

use moexperts_core::{
    BackendSupport, DType, ExpertsInterface, Result, Variable, VariableValue, backend_support,
};
use moexperts_cpu::{
    Cpu, Isa, VARIABLES,
    inspect::{CpuKernel, Machine, cpu_kernels, describe_cpu, read_bandwidth},
};
use pyo3::{
    prelude::*,
    types::{IntoPyDict as _, PyDict},
};

use crate::{arguments::raised, worker};

/// Describes what layers run on: the machine, its device, which experts each backend runs, the kernels,
/// the environment. Measures how fast memory is read, which takes about a second.
///
/// - `threads`: the number of threads that compute; 0 for all of the machine
#[pyfunction]
pub(crate) fn inspect<'py>(py: Python<'py>, threads: usize) -> PyResult<Bound<'py, PyDict>> {
    py.detach(|| Facts::gather(threads)).map_err(raised)?.into_dict(py)
}

/// What is gathered while the interpreter is released.
struct Facts {
    machine: Machine,
    bytes_per_second: f64,
    cpu: DeviceDict,
    backends: Vec<BackendSupport>,
    kernels: [(DType, Vec<CpuKernel>); 3],
}

impl Facts {
    fn gather(threads: usize) -> Result<Self> {
        let cpu = worker::cpu(threads, None)?;
        Ok(Self {
            machine: Machine::of(&cpu),
            bytes_per_second: read_bandwidth(&cpu).bytes_per_second,
            cpu: DeviceDict {
                description: describe_cpu(&cpu),
                backends: ExpertsInterface::names::<Cpu>(),
            },
            backends: backend_support(&cpu),
            kernels: DType::ALL.map(|dtype| (dtype, cpu_kernels(&cpu, dtype))),
        })
    }

    fn into_dict(self, py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
        let backends = self.backends.into_iter().map(|BackendSupport { backend, properties }| {
            Ok((backend, properties.into_py_dict(py)?))
        });
        let kernels = self.kernels.into_iter().map(|(dtype, kernels)| {
            (dtype.name(), kernels.into_iter().map(KernelDict::from).collect::<Vec<_>>())
        });
        let dict = PyDict::new(py);
        dict.set_item("version", env!("CARGO_PKG_VERSION"))?;
        dict.set_item("machine", MachineDict::new(self.machine, self.bytes_per_second))?;
        dict.set_item("devices", [("cpu", self.cpu)].into_py_dict(py)?)?;
        dict.set_item("backends", backends.collect::<PyResult<Vec<_>>>()?.into_py_dict(py)?)?;
        dict.set_item("kernels", kernels.into_py_dict(py)?)?;
        dict.set_item("environment", VARIABLES.iter().map(variable).into_py_dict(py)?)?;
        Ok(dict)
    }
}

#[derive(IntoPyObject)]
struct MachineDict {
    processor: Option<String>,
    instruction_set: &'static str,
    instruction_sets: Vec<&'static str>,
    threads: usize,
    memory_bytes: Option<u64>,
    available_memory_bytes: Option<u64>,
    read_bandwidth_bytes_per_s: f64,
}

impl MachineDict {
    fn new(machine: Machine, read_bandwidth_bytes_per_s: f64) -> Self {
        Self {
            processor: machine.processor,
            instruction_set: machine.isa.name(),
            instruction_sets: machine.isas.into_iter().map(Isa::name).collect(),
            threads: machine.threads,
            memory_bytes: machine.memory.map(|memory| memory.total_bytes),
            available_memory_bytes: machine.memory.map(|memory| memory.available_bytes),
            read_bandwidth_bytes_per_s,
        }
    }
}

#[derive(IntoPyObject)]
struct DeviceDict {
    description: String,
    backends: Vec<String>,
}

#[derive(IntoPyObject)]
struct KernelDict {
    instruction_set: &'static str,
    inputs: &'static str,
    in_use: bool,
}

impl From<CpuKernel> for KernelDict {
    fn from(CpuKernel { isa, inputs, in_use, .. }: CpuKernel) -> Self {
        Self { instruction_set: isa.name(), inputs: inputs.name(), in_use }
    }
}

#[derive(IntoPyObject)]
struct VariableDict {
    value: Option<String>,
    meaning: &'static str,
}

fn variable(variable: &Variable) -> (&'static str, VariableDict) {
    let value = match variable.shown() {
        VariableValue::NotSet => None,
        VariableValue::Text(text) => Some(text),
        _ => Some("set, not shown".to_owned()),
    };
    (variable.name, VariableDict { value, meaning: variable.meaning })
}
