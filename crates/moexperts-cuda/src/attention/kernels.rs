//! The kernels of attention.cu, and the choice among them.

use bytemuck::NoUninit;
use moexperts_core::{AttentionSpec, Error, Result};

use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    error::problem,
    kernels::{ATTENTION, Kernel},
};

/// `MIN_PART` and `MOST_PARTS` of attention.cu: keys of a part at least, so that merging the
/// parts stays a small part of the work; and parts at most.
const MIN_PART: usize = 64;
const MOST_PARTS: usize = 64;

/// The widest head of a query and a key.
const MOST_HEAD_DIM: usize = 256;

/// `AppendParams` of attention.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
pub(super) struct AppendParams {
    pub(super) keys: DevicePtr,
    pub(super) values: DevicePtr,
    pub(super) spans: DevicePtr,
    pub(super) spans_len: u32,
    pub(super) layer: u32,
    pub(super) kv_heads: u32,
    pub(super) head_dim: u32,
    pub(super) value_dim: u32,
    pub(super) key_stride: u32,
    pub(super) value_stride: u32,
    pub(super) mask: u32,
}

/// `AttentionParams` of attention.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
pub(super) struct AttentionParams {
    pub(super) queries: DevicePtr,
    pub(super) spans: DevicePtr,
    pub(super) tiles: DevicePtr,
    pub(super) sinks: DevicePtr,
    pub(super) out: DevicePtr,
    pub(super) parts: DevicePtr,
    pub(super) layer: u32,
    pub(super) kv_heads: u32,
    pub(super) group: u32,
    pub(super) head_dim: u32,
    pub(super) value_dim: u32,
    pub(super) key_stride: u32,
    pub(super) value_stride: u32,
    pub(super) mask: u32,
    pub(super) window: u32,
    pub(super) causal: u32,
    pub(super) splits: u32,
    pub(super) tile_rows: u32,
    pub(super) scale: f32,
    pub(super) padding: u32,
}

pub(super) static APPEND: Kernel<AppendParams> = Kernel::new(&ATTENTION, "append", 256);
pub(super) static MERGE_PARTS: Kernel<AttentionParams> =
    Kernel::new(&ATTENTION, "merge_parts", 128);

/// A kernel for tiles of `rows` rows, with shared memory for `keys` keys at a time, and value heads
/// of up to `value_dim` values.
pub(super) struct Attend {
    pub(super) rows: usize,
    keys: usize,
    value_dim: usize,
    pub(super) kernel: Kernel<AttentionParams>,
}

impl Attend {
    const fn many(rows: usize, keys: usize, value_dim: usize, name: &'static str) -> Self {
        let kernel = Kernel::new(&ATTENTION, name, 4 * rows as u32);
        Self { rows, keys, value_dim, kernel }
    }

    const fn few(rows: usize, value_dim: usize, name: &'static str) -> Self {
        // Four warps, each with two times eight keys.
        Self { rows, keys: 64, value_dim, kernel: Kernel::new(&ATTENTION, name, 128) }
    }
}

/// `attend_tile` of attention.cu, the fastest first.
static MANY: [Attend; 8] = [
    Attend::many(64, 64, 64, "attend_64_1"),
    Attend::many(64, 64, 128, "attend_64_2"),
    Attend::many(64, 64, 192, "attend_64_3"),
    Attend::many(64, 64, 256, "attend_64_4"),
    Attend::many(32, 32, 64, "attend_32_1"),
    Attend::many(32, 32, 128, "attend_32_2"),
    Attend::many(32, 32, 192, "attend_32_3"),
    Attend::many(32, 16, 256, "attend_32_4"),
];

/// `attend_few` of attention.cu, those for fewer rows first.
static FEW: [Attend; 5] = [
    Attend::few(4, 128, "attend_few_4_1"),
    Attend::few(8, 128, "attend_few_8_1"),
    Attend::few(16, 128, "attend_few_16_1"),
    Attend::few(4, 256, "attend_few_4_2"),
    Attend::few(8, 256, "attend_few_8_2"),
];

/// A kernel and the shared memory of its blocks.
#[derive(Clone, Copy)]
pub(super) struct ChosenKernel {
    pub(super) attend: &'static Attend,
    pub(super) shared_bytes: usize,
}

impl ChosenKernel {
    /// The kernel for tiles of many rows.
    pub(super) fn many(cuda: &Cuda, spec: &AttentionSpec) -> Result<Self> {
        let [depth, _] = depths(spec);
        MANY.iter()
            .filter(|attend| spec.value_dim <= attend.value_dim)
            .map(|attend| {
                let Attend { rows, keys, value_dim, .. } = *attend;
                let [queries, weights] = [rows * (depth + 4), rows * (keys + 4)];
                let values = queries + keys * (depth + 4) + keys * value_dim + weights;
                Self { attend, shared_bytes: 4 * values }
            })
            .find(|chosen| chosen.runs_on(cuda, spec))
            .ok_or_else(|| no_kernel(spec))
    }

    /// The kernel for tiles of spans of few rows, the largest of `rows`.
    pub(super) fn few(cuda: &Cuda, spec: &AttentionSpec, rows: usize) -> Result<Self> {
        // The narrowest that is wide enough; of these, the one with the fewest rows that are enough.
        let most = FEW.iter().map(|attend| attend.value_dim).find(|&most| spec.value_dim <= most);
        let fits = FEW
            .iter()
            .filter(|attend| Some(attend.value_dim) == most)
            .map(|attend| Self { attend, shared_bytes: few_bytes(attend, spec) })
            .filter(|chosen| chosen.runs_on(cuda, spec));
        let enough = fits.clone().find(|chosen| chosen.attend.rows >= rows);
        enough.or_else(|| fits.clone().next_back()).ok_or_else(|| no_kernel(spec))
    }

    fn runs_on(&self, cuda: &Cuda, spec: &AttentionSpec) -> bool {
        let available = cuda.properties().shared_bytes_per_block as usize;
        spec.head_dim <= MOST_HEAD_DIM && self.shared_bytes <= available
    }
}

/// Widths of keys and of values in shared memory, in fours.
fn depths(spec: &AttentionSpec) -> [usize; 2] {
    [spec.head_dim, spec.value_dim].map(|dim| dim.next_multiple_of(4))
}

/// Values of a row of `parts`: sums, the largest score and the sum of the weights.
pub(super) fn part_values(spec: &AttentionSpec) -> usize {
    depths(spec)[1] + 4
}

/// Shared memory of `attend_few`.
fn few_bytes(attend: &Attend, spec: &AttentionSpec) -> usize {
    let (rows, [depth, _]) = (attend.rows, depths(spec));
    // Each warp also has the weights of eight keys. In the end the results replace all but the queries.
    let weights = 4 * (8 * (rows + 4) + rows);
    let keys = attend.keys * (depth + 4) + weights;
    let results = 4 * rows * part_values(spec);
    4 * (rows * (depth + 4) + keys.max(results))
}

/// Number of parts, at most, into which the keys of a tile of few rows are divided.
pub(super) fn splits(keys: usize) -> usize {
    keys.next_power_of_two().div_ceil(MIN_PART).min(MOST_PARTS)
}

/// Checks that there are kernels for an attention, with sinks or without.
pub(crate) fn check(cuda: &Cuda, spec: &AttentionSpec) -> Result<()> {
    ChosenKernel::many(cuda, spec)?;
    ChosenKernel::few(cuda, spec, 1).map(drop)
}

fn no_kernel(spec: &AttentionSpec) -> Error {
    let widest = spec.head_dim.max(spec.value_dim);
    problem(format!("attention with heads of {widest} values is not supported, the CPU has it"))
}
