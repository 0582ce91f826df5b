//! Which kernels compute.

use moexperts_core::{DType, Device, Matrix};
use moexperts_cpu::{Cpu, Isa, product::Kernel};

use crate::error::Result;

/// Rows and columns of a weight that a device's kernels are asked about.
const SIZE: usize = 256;

/// Rows that pass through it.
const ROWS: [usize; 5] = [1, 8, 32, 128, 1024];

/// A kernel of the CPU for weights of one format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuKernel {
    /// The instruction set it needs.
    pub isa: Isa,
    /// The dtype it rounds its inputs to; it does not round them if that is f32.
    pub inputs: DType,
    /// Whether it is the one that computes: the first that needs no more than the instruction set
    /// in use.
    pub in_use: bool,
}

/// Lists the kernels that this machine can run on weights of a dtype, the best first.
pub fn cpu_kernels(cpu: &Cpu, weights: DType) -> Vec<CpuKernel> {
    let used = Kernel::select(cpu.isa(), weights).map(|kernel| kernel.isa());
    let kernels = Kernel::all().filter(|kernel| kernel.format() == weights.into());
    let facts = |kernel: Kernel| {
        let isa = kernel.isa();
        CpuKernel { isa, inputs: kernel.inputs(), in_use: Some(isa) == used }
    };
    kernels.map(facts).collect()
}

/// The kernel a device chooses, from some number of rows on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelChoice {
    /// The fewest rows, of those asked about, that it is chosen for.
    pub rows: usize,
    /// Its name, as [`Tuning::kernel_name`](crate::core::Tuning::kernel_name) says.
    pub kernel: String,
}

/// Lists the kernels that a device multiplies rows and weights of a dtype with, by rows ascending.
///
/// # Errors
/// If the device has no room for a small weight.
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
    use moexperts_cpu::CpuOptions;

    use super::*;

    fn portable() -> Cpu {
        Cpu::new(CpuOptions { threads: 1.try_into().ok(), isa: Some(Isa::Portable) }).unwrap()
    }

    #[test]
    fn one_kernel_of_a_dtype_is_in_use() {
        for dtype in DType::ALL {
            let kernels = cpu_kernels(&portable(), dtype);
            let used: Vec<&CpuKernel> = kernels.iter().filter(|kernel| kernel.in_use).collect();
            let portable = CpuKernel { isa: Isa::Portable, inputs: DType::F32, in_use: true };
            assert_eq!(used, [&portable], "{dtype}");
            assert_eq!(kernels.last(), Some(&portable), "{dtype}");
        }
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
