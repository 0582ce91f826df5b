//! Which kernels compute.

use moexperts::{
    Cpu, DType, Device, Error,
    core::{DeviceKind, Matrix},
    cpu::product::Kernel,
};

use super::{listed, table};
use crate::{error::CliError, summary::counted};

/// Rows and columns of a weight that a GPU's kernels are asked about.
const SIZE: usize = 256;

/// Rows that pass through it.
const ROWS: [usize; 5] = [1, 8, 32, 128, 1024];

/// The title of the section and its lines.
pub(super) fn section<D: Device>(cpu: &Cpu, device: &D) -> Result<(String, String), CliError> {
    Ok(match D::KIND {
        DeviceKind::Cpu => {
            ("Kernels by dtype of the weights, the best first".to_owned(), of_cpu(cpu))
        }
        DeviceKind::Gpu => {
            ("Kernels by dtype of the weights and rows".to_owned(), of_device(device)?)
        }
    })
}

fn of_cpu(cpu: &Cpu) -> String {
    let row = |dtype: DType| {
        let used = Kernel::select(cpu.isa(), dtype).isa();
        let kernels = Kernel::all().filter(|kernel| kernel.weights() == dtype).map(|kernel| {
            let inputs = match kernel.inputs() {
                DType::F32 => String::new(),
                rounded => format!(" (rounds inputs to {rounded})"),
            };
            let mark = if kernel.isa() == used { "*" } else { "" };
            format!("{}{mark}{inputs}", kernel.isa())
        });
        (dtype.name(), listed(kernels))
    };
    table(DType::ALL.map(row)) + "  * in use\n"
}

fn of_device<D: Device>(device: &D) -> Result<String, CliError> {
    let row = |dtype: DType| {
        let weight = Matrix::from_f32(SIZE, SIZE, &[0.0; SIZE * SIZE], dtype)?;
        let weight = device.load_matrix(weight)?;
        let mut names: Vec<(usize, String)> =
            ROWS.iter().map(|&rows| (rows, device.kernel_name(&weight, rows))).collect();
        // Each from the fewest rows it is chosen for.
        names.dedup_by(|next, last| next.1 == last.1);
        let named = |(rows, name)| format!("{name} (from {})", counted(rows, "row"));
        Ok((dtype.name(), listed(names.into_iter().map(named))))
    };
    let rows: Result<Vec<_>, Error> = DType::ALL.into_iter().map(row).collect();
    Ok(table(rows?))
}
