//! Activations in the weights' type.

use bytemuck::NoUninit;
use moexperts_core::{DType, Result};

use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    kernels::{Kernel, SCHEDULE},
    runtime::memory::{Buffer, CudaTensor},
};

/// `NarrowParams` of schedule.cu.
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
struct NarrowParams {
    x: DevicePtr,
    out: DevicePtr,
    cols: u32,
    stride: u32,
}

const THREADS: u32 = 256;
static NARROW_F16: Kernel<NarrowParams> = Kernel::new(&SCHEDULE, "narrow_rows_f16", THREADS);
static NARROW_BF16: Kernel<NarrowParams> = Kernel::new(&SCHEDULE, "narrow_rows_bf16", THREADS);

/// Values that a thread narrows.
const VALUES: usize = 8;

/// Room for activations in 16 bits, and where those of the last tensor are.
#[derive(Debug, Default)]
pub(crate) struct Narrowed {
    buffer: Buffer,
    is_narrow: bool,
    stride: usize,
}

impl Narrowed {
    /// Takes a tensor's values to a type: its own, if that is f32.
    ///
    /// # Errors
    /// If the device has no room.
    pub(crate) fn load(&mut self, cuda: &Cuda, x: &CudaTensor, dtype: DType) -> Result<()> {
        let kernel = match dtype {
            DType::F32 => {
                (self.is_narrow, self.stride) = (false, x.cols());
                return Ok(());
            }
            DType::F16 => &NARROW_F16,
            DType::Bf16 => &NARROW_BF16,
        };
        (self.is_narrow, self.stride) = (true, x.cols().next_multiple_of(VALUES));
        self.buffer.reserve(cuda, 2 * x.rows() * self.stride)?;
        let (cols, stride) = (x.cols() as u32, self.stride as u32);
        let params = NarrowParams { x: x.ptr(), out: self.buffer.ptr(), cols, stride };
        let parts = x.cols().div_ceil(VALUES * THREADS as usize);
        cuda.launch(kernel, [x.rows(), parts, 1], 0, params)
    }

    /// Where the values of the tensor last taken are.
    pub(crate) fn ptr(&self, x: &CudaTensor) -> DevicePtr {
        if self.is_narrow { self.buffer.ptr() } else { x.ptr() }
    }

    /// Elements from a row to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Whether all rows begin at multiples of 16 bytes.
    pub(crate) fn aligned(&self) -> bool {
        self.is_narrow || self.stride.is_multiple_of(4)
    }
}
