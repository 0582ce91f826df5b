//! Weights on large pages: fewer of the processor's page tables are read on the way to them.

use std::fmt;

use memmap2::{Mmap, MmapMut};
use moexperts_core::{Element, Elements, Error, Matrix, MatrixLayout, Result, Storage};

use crate::cpu::Cpu;

/// Bytes below which a weight is not worth separate pages: half of a large page of x86-64.
const WORTH_IT: usize = 1 << 20;

/// Anonymous memory for which large pages were requested.
struct HugePages(Mmap);

impl fmt::Debug for HugePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes on large pages", self.0.len())
    }
}

impl Storage for HugePages {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A copy of a weight without gaps between its rows, if it is large enough to gain from it.
pub(crate) fn copy(cpu: &Cpu, weight: &Matrix) -> Result<Option<Matrix>> {
    if weight.size_bytes() < WORTH_IT {
        return Ok(None);
    }
    let refused = |error: std::io::Error| Error::Device {
        device: <Cpu as moexperts_core::Execution>::NAME,
        problem: format!("no memory for a copy of {} bytes: {error}", weight.size_bytes()),
    };
    let mut pages = MmapMut::map_anon(weight.size_bytes()).map_err(refused)?;
    // If the system has no large pages, the copy is as good on small ones.
    #[cfg(target_os = "linux")]
    let _ = pages.advise(memmap2::Advice::HugePage);
    match weight.elements() {
        Elements::F32(values) => fill(cpu, weight, values, &mut pages),
        Elements::F16(values) => fill(cpu, weight, values, &mut pages),
        Elements::Bf16(values) => fill(cpu, weight, values, &mut pages),
    }
    let dtype = weight.elements().dtype();
    let layout = MatrixLayout::row_major(0, dtype, weight.rows(), weight.cols());
    let storage = HugePages(pages.make_read_only().map_err(refused)?);
    Matrix::new(std::sync::Arc::new(storage), layout).map(Some)
}

/// Every thread copies the rows it takes, and so is given the pages they lie on.
fn fill<T: Element>(cpu: &Cpu, weight: &Matrix, values: &[T], pages: &mut [u8]) {
    let stride = weight.row_stride();
    cpu.for_each_row(bytemuck::cast_slice_mut(pages), weight.cols(), |row, out: &mut [T]| {
        out.copy_from_slice(&values[row * stride..][..weight.cols()]);
    });
}

#[cfg(test)]
mod tests {
    use moexperts_core::DType;

    use super::*;
    use crate::CpuOptions;

    #[test]
    fn a_copy_holds_the_same_values() {
        let cpu = Cpu::new(CpuOptions::default()).unwrap();
        let values: Vec<f32> = (0..1 << 20).map(|value| (value % 251) as f32).collect();
        for dtype in DType::ALL {
            let matrix = Matrix::from_f32(1 << 10, 1 << 10, &values, dtype).unwrap();
            let part = matrix.rows_stepped(1..1 << 10, 2).col_range(1..1 << 10);
            let whole = copy(&cpu, &matrix).unwrap().unwrap();
            assert_eq!(whole.to_f32(), matrix.to_f32());
            if let Some(copied) = copy(&cpu, &part).unwrap() {
                assert_eq!(copied.row_stride(), part.cols());
                assert_eq!(copied.to_f32(), part.to_f32());
            }
            let small = matrix.row_range(0..4);
            assert!(copy(&cpu, &small).unwrap().is_none());
        }
    }
}
