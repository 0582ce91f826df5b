//! Which kernel a device chooses for how many rows.

use moexperts_core::{DType, Device, Matrix};

use crate::error::Result;

/// Rows and columns of the weight for which kernels are listed.
const SIZE: usize = 256;

/// Numbers of rows that are multiplied with it.
const ROWS: [usize; 5] = [1, 8, 32, 128, 1024];

/// The kernel that a device chooses, from a number of rows on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelChoice {
    /// The fewest rows, of those tried, that it is chosen for.
    pub rows: usize,
    /// Its name, see [`Tuning::kernel_name`](crate::core::Tuning::kernel_name).
    pub kernel: String,
}

/// Lists the kernels that a device multiplies rows and weights of a dtype with, by rows ascending.
///
/// # Errors
/// If the device is out of memory.
pub fn kernel_choices<D: Device>(device: &D, weights: DType) -> Result<Vec<KernelChoice>> {
    let weight = Matrix::from_f32(SIZE, SIZE, &[0.0; SIZE * SIZE], weights)?;
    let weight = device.load_matrix(weight)?;
    let choice = |rows| KernelChoice { rows, kernel: device.kernel_name(&weight, rows) };
    let mut choices: Vec<KernelChoice> = ROWS.into_iter().map(choice).collect();
    choices.dedup_by(|next, last| next.kernel == last.kernel);
    Ok(choices)
}

#[cfg(test)]
mod tests {
    use moexperts_cpu::{Cpu, CpuOptions, Isa};

    use super::*;

    fn portable() -> Cpu {
        Cpu::new(CpuOptions { threads: 1.try_into().ok(), isa: Some(Isa::Portable) }).unwrap()
    }

    #[test]
    fn a_kernel_is_listed_from_the_fewest_rows_it_is_chosen_for() {
        let choices = kernel_choices(&portable(), DType::F32).unwrap();
        let kernels: Vec<&str> = choices.iter().map(|choice| choice.kernel.as_str()).collect();
        assert_eq!(kernels, ["portable dot", "portable lanes"]);
        assert_eq!(choices[0].rows, 1);
        assert!(choices[1].rows > 1);
    }
}
