//! Activations rounded to the type of the weights.

use bytemuck::NoUninit;
use moexperts_core::{DType, Result};

use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    kernels::{Kernel, SCHEDULE},
    runtime::{buffer::CudaBuffer, memory::CudaTensor},
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

/// Values that a thread narrows: 16 bytes of results, which it stores at once.
const VALUES: usize = 8;

/// A buffer for activations in 16 bits, and how those of the last tensor are stored.
#[derive(Debug, Default)]
pub(crate) struct Narrowed {
    buffer: CudaBuffer,
    is_narrow: bool,
    stride: usize,
}

impl Narrowed {
    /// Rounds the values of a tensor to a type, into the buffer; f32 stays where it is.
    ///
    /// # Errors
    /// If the device has not enough memory.
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
        let params = NarrowParams { x: x.ptr(cuda), out: self.buffer.ptr(cuda), cols, stride };
        let parts = x.cols().div_ceil(VALUES * THREADS as usize);
        // SAFETY: the kernels take a `NarrowParams`. They read the rows · cols values of x, and write as
        // many into rows `stride` apart, for which the buffer was grown; both are of this GPU.
        unsafe { cuda.launch(kernel, [x.rows(), parts, 1], 0, params) }
    }

    /// The values of the tensor that was loaded last, `x`.
    pub(crate) fn ptr(&self, cuda: &Cuda, x: &CudaTensor) -> DevicePtr {
        if self.is_narrow { self.buffer.ptr(cuda) } else { x.ptr(cuda) }
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
