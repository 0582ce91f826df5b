//! The pairs of a routing in the order of their experts.

use bytemuck::NoUninit;
use moexperts_core::Result;

use crate::{
    cuda::Cuda,
    driver::{DevicePtr, Work},
    kernels::{Kernel, SCHEDULE},
    runtime::memory::{Buffer, CudaRouting},
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
/// Segments of the kernel that does everything in one block, a warp each.
const FEW_SEGMENTS: usize = 32;
const FEW: Kernel<ScheduleParams> = Kernel::new(&SCHEDULE, "schedule_few", 32 * 32);
const SUM: Kernel<ScheduleParams> = Kernel::new(&SCHEDULE, "schedule_sum", 32 * 32);
/// Segments of a block of the others.
const BLOCK_SEGMENTS: usize = 8;
const COUNT: Kernel<ScheduleParams> = Kernel::new(&SCHEDULE, "schedule_count", 32 * 8);
const PLACE: Kernel<ScheduleParams> = Kernel::new(&SCHEDULE, "schedule_place", 32 * 8);

/// Pairs up to which one block is enough: a few for each lane.
const FEW_PAIRS: usize = 4096;
/// Pairs of a segment at least, and segments at most, where there are more.
const SEGMENT_PAIRS: usize = 256;
const MOST_SEGMENTS: usize = 256;

/// The pairs (token, expert) of a routing ordered by expert, on the device: what a backend needs that
/// lets an expert's tokens pass its weights together.
///
/// Pairs of an expert stay in their order; those of no expert (sentinels) are left out.
#[derive(Debug, Default)]
pub struct Schedule {
    counts: Buffer,
    offsets: Buffer,
    tokens: Buffer,
    pairs: Buffer,
}

impl Schedule {
    /// Orders the pairs of a routing over so many experts, after everything before and without
    /// waiting for it.
    ///
    /// # Errors
    /// If the device has no room or refuses.
    ///
    /// # Panics
    /// If there are 2³¹ pairs or more.
    pub fn order(&mut self, cuda: &Cuda, routing: &CudaRouting, experts: usize) -> Result<()> {
        let pairs = routing.tokens() * routing.top_k();
        assert!(i32::try_from(pairs).is_ok(), "{pairs} pairs");
        self.offsets.reserve(cuda, 4 * (experts + 1))?;
        self.tokens.reserve(cuda, 4 * pairs)?;
        self.pairs.reserve(cuda, 4 * pairs)?;
        let room = cuda.properties().shared_bytes_per_block as usize;
        let few_bytes = 4 * FEW_SEGMENTS * experts;
        // Static shared memory takes some besides.
        let is_few = pairs <= FEW_PAIRS && few_bytes + 2048 <= room;
        let segment_pairs = match is_few {
            true => pairs.div_ceil(FEW_SEGMENTS),
            false => pairs.div_ceil(MOST_SEGMENTS).max(SEGMENT_PAIRS),
        };
        let segment_pairs = segment_pairs.next_multiple_of(WARP).max(WARP);
        let segments = if is_few { FEW_SEGMENTS } else { pairs.div_ceil(segment_pairs) };
        let place_bytes = 4 * BLOCK_SEGMENTS * experts;
        let mut params = ScheduleParams {
            top_k_index: routing.top_k_index(),
            counts: DevicePtr(0),
            offsets: self.offsets.ptr(),
            x_rows: self.tokens.ptr(),
            out_rows: self.pairs.ptr(),
            pairs: pairs as u32,
            top_k: routing.top_k() as u32,
            experts: experts as u32,
            segments: segments as u32,
            segment_pairs: segment_pairs as u32,
            counts_shared: u32::from(place_bytes <= room),
        };
        if is_few {
            return cuda.launch(&FEW, [1, 1, 1], few_bytes, params);
        }
        let counts_bytes = 4 * experts * segments;
        self.counts.reserve(cuda, counts_bytes)?;
        params.counts = self.counts.ptr();
        if counts_bytes > 0 {
            cuda.submit(Work::Zero { at: params.counts, bytes: counts_bytes })?;
        }
        let blocks = segments.div_ceil(BLOCK_SEGMENTS);
        let place_bytes = if params.counts_shared == 1 { place_bytes } else { 0 };
        cuda.launch(&COUNT, [blocks, 1, 1], 0, params)?;
        cuda.launch(&SUM, [1, 1, 1], 0, params)?;
        cuda.launch(&PLACE, [blocks, 1, 1], place_bytes, params)
    }

    /// Where the positions of each expert begin, and behind the last expert's: [E + 1] in u32.
    pub fn offsets(&self) -> DevicePtr {
        self.offsets.ptr()
    }

    /// The token of each position, in u32.
    pub fn tokens(&self) -> DevicePtr {
        self.tokens.ptr()
    }

    /// The pair of each position, `token · K + k`, in u32.
    pub fn pairs(&self) -> DevicePtr {
        self.pairs.ptr()
    }
}
