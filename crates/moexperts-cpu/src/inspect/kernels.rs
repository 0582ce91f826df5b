//! The kernels that this machine can run.

use moexperts_core::DType;

use crate::{Cpu, Isa, product::Kernel};

/// A kernel of the CPU for weights of one format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CpuKernel {
    /// The instruction set it needs.
    pub isa: Isa,
    /// The dtype it rounds its inputs to; f32 means that it does not round them.
    pub inputs: DType,
    /// Whether products use it: it is the first that the instruction set in use includes.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CpuOptions;

    #[test]
    fn one_kernel_of_a_dtype_is_in_use() {
        let options = CpuOptions { threads: 1.try_into().ok(), isa: Some(Isa::Portable) };
        let cpu = Cpu::new(options).unwrap();
        for dtype in DType::ALL {
            let kernels = cpu_kernels(&cpu, dtype);
            let used: Vec<&CpuKernel> = kernels.iter().filter(|kernel| kernel.in_use).collect();
            let portable = CpuKernel { isa: Isa::Portable, inputs: DType::F32, in_use: true };
            assert_eq!(used, [&portable], "{dtype}");
            assert_eq!(kernels.last(), Some(&portable), "{dtype}");
        }
    }
}
