//! Which kernels compute.

use moexperts::{
    AnyDevice, Cpu, DType, Error,
    core::DeviceKind,
    inspect::{CpuKernel, KernelChoice, cpu_kernels, kernel_choices},
    units::counted,
};

use moexperts_bench::on_device;

use super::{listed, table};
use crate::error::CliError;

/// The title of the section and its lines.
pub(super) fn section(cpu: &Cpu, device: &AnyDevice) -> Result<(String, String), CliError> {
    Ok(match device.kind() {
        DeviceKind::Cpu => {
            ("Kernels by dtype of the weights, the best first".to_owned(), of_cpu(cpu))
        }
        DeviceKind::Gpu => {
            ("Kernels by dtype of the weights and rows".to_owned(), of_device(device)?)
        }
    })
}

fn of_cpu(cpu: &Cpu) -> String {
    let named = |CpuKernel { isa, inputs, in_use, .. }| {
        let inputs = match inputs {
            DType::F32 => String::new(),
            rounded => format!(" (rounds inputs to {rounded})"),
        };
        let mark = if in_use { "*" } else { "" };
        format!("{isa}{mark}{inputs}")
    };
    let row = |dtype: DType| {
        let kernels = cpu_kernels(cpu, dtype);
        (dtype.name(), listed(kernels.into_iter().map(named)))
    };
    table(DType::ALL.map(row)) + "  * in use\n"
}

fn of_device(device: &AnyDevice) -> Result<String, CliError> {
    let named = |KernelChoice { rows, kernel }| format!("{kernel} (from {})", counted(rows, "row"));
    let row = |dtype: DType| {
        let choices = on_device!(device, device => kernel_choices(device, dtype))?;
        Ok((dtype.name(), listed(choices.into_iter().map(named))))
    };
    let rows: Result<Vec<_>, Error> = DType::ALL.into_iter().map(row).collect();
    Ok(table(rows?))
}
