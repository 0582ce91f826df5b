//! The pairs of a routing, ordered by expert.

use bytemuck::NoUninit;
use moexperts_core::Result;

use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    kernels::{Kernel, SCHEDULE},
    runtime::{buffer::CudaBuffer, memory::CudaRouting},
};

/// `ScheduleParams` of schedule.cu.
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
struct ScheduleParams {
    top_k_index: DevicePtr,
    counts: DevicePtr,
    offsets: DevicePtr,
    x_rows: DevicePtr,
    out_rows: DevicePtr,
    pairs: u32,
    top_k: u32,
    experts: u32,
    segments: u32,
    segment_pairs: u32,
    counts_shared: u32,
}

const WARP: usize = 32;
/// Segments of the kernel that does everything in one block, one for each warp.
const FEW_SEGMENTS: usize = 32;
const FEW: Kernel<ScheduleParams> = Kernel::new(&SCHEDULE, "schedule_few", 32 * 32);
const SUM: Kernel<ScheduleParams> = Kernel::new(&SCHEDULE, "schedule_sum", 32 * 32);
/// Segments of a block of the other kernels.
const BLOCK_SEGMENTS: usize = 8;
const COUNT: Kernel<ScheduleParams> = Kernel::new(&SCHEDULE, "schedule_count", 32 * 8);
const PLACE: Kernel<ScheduleParams> = Kernel::new(&SCHEDULE, "schedule_place", 32 * 8);

/// Pairs up to which one block is enough: four for each of its threads.
const FEW_PAIRS: usize = 4096;
/// Where there are more: pairs of a segment at least, and segments at most.
const SEGMENT_PAIRS: usize = 256;
const MOST_SEGMENTS: usize = 256;

/// The pairs (token, expert) of a routing ordered by expert, on the device, for backends that multiply
/// all tokens of an expert with its weights at once.
///
/// Pairs of an expert keep their order; those of no expert (sentinels) are left out.
#[derive(Debug, Default)]
pub struct Schedule {
    counts: CudaBuffer,
    offsets: CudaBuffer,
    tokens: CudaBuffer,
    pairs: CudaBuffer,
}

impl Schedule {
    /// Orders the pairs of a routing over `experts` experts, after all work submitted before and without
    /// waiting for it.
    ///
    /// # Errors
    /// If the device has not enough memory or refuses.
    ///
    /// # Panics
    /// If there are 2³¹ pairs or more.
    pub fn order(&mut self, cuda: &Cuda, routing: &CudaRouting, experts: usize) -> Result<()> {
        let pairs = routing.tokens() * routing.top_k();
        assert!(i32::try_from(pairs).is_ok(), "{pairs} pairs");
        self.offsets.reserve(cuda, 4 * (experts + 1))?;
        self.tokens.reserve(cuda, 4 * pairs)?;
        self.pairs.reserve(cuda, 4 * pairs)?;
        let shared_bytes = cuda.properties().shared_bytes_per_block as usize;
        let few_bytes = 4 * FEW_SEGMENTS * experts;
        // 2048 bytes are left for the static shared memory of the kernel.
        let is_few = pairs <= FEW_PAIRS && few_bytes + 2048 <= shared_bytes;
        let segment_pairs = match is_few {
            true => pairs.div_ceil(FEW_SEGMENTS),
            false => pairs.div_ceil(MOST_SEGMENTS).max(SEGMENT_PAIRS),
        };
        let segment_pairs = segment_pairs.next_multiple_of(WARP).max(WARP);
        let segments = if is_few { FEW_SEGMENTS } else { pairs.div_ceil(segment_pairs) };
        let place_bytes = 4 * BLOCK_SEGMENTS * experts;
        let mut params = ScheduleParams {
            top_k_index: routing.top_k_index(cuda),
            counts: DevicePtr::NULL,
            offsets: self.offsets.ptr(cuda),
            x_rows: self.tokens.ptr(cuda),
            out_rows: self.pairs.ptr(cuda),
            pairs: pairs as u32,
            top_k: routing.top_k() as u32,
            experts: experts as u32,
            segments: segments as u32,
            segment_pairs: segment_pairs as u32,
            counts_shared: u32::from(place_bytes <= shared_bytes),
        };
        if is_few {
            // SAFETY: `schedule_few` takes a `ScheduleParams`. It reads the ids of the routing and writes the
            // offsets, tokens and pairs, which were grown to hold them; `few_bytes` are its counters.
            return unsafe { cuda.launch(&FEW, [1, 1, 1], few_bytes, params) };
        }
        let counts_bytes = 4 * experts * segments;
        self.counts.reserve(cuda, counts_bytes)?;
        params.counts = self.counts.ptr(cuda);
        self.counts.zero(cuda, counts_bytes)?;
        let blocks = segments.div_ceil(BLOCK_SEGMENTS);
        let place_bytes = if params.counts_shared == 1 { place_bytes } else { 0 };
        // SAFETY: the kernels take a `ScheduleParams`. As above, and `counts` has a counter for each expert
        // and segment, zeroed; `place_bytes` are the counters of a block's warps.
        unsafe {
            cuda.launch(&COUNT, [blocks, 1, 1], 0, params)?;
            cuda.launch(&SUM, [1, 1, 1], 0, params)?;
            cuda.launch(&PLACE, [blocks, 1, 1], place_bytes, params)
        }
    }

    /// The first position of each expert, and the end of the last expert's: [E + 1] in u32.
    pub fn offsets(&self) -> &CudaBuffer {
        &self.offsets
    }

    /// The token of each position, in u32.
    pub fn tokens(&self) -> &CudaBuffer {
        &self.tokens
    }

    /// The pair of each position, `token · K + k`, in u32.
    pub fn pairs(&self) -> &CudaBuffer {
        &self.pairs
    }
}
