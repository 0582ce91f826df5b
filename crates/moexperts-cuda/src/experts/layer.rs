//! A layer as two grouped products and a weighted sum, for pairs that are ordered by expert.

use bytemuck::{NoUninit, Zeroable};
use moexperts_core::{Experts, Result};

use super::{
    call::{Sizes, dtype},
    tables::Tables,
};
use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    elementwise::activation::ActivationParams,
    kernels::{Kernel, SCHEDULE},
    product::{grouped::Groups, narrow::Narrowed, params::GroupedParams},
    runtime::{
        buffer::CudaBuffer,
        memory::{CudaRouting, CudaTensor},
    },
};

/// `CombineParams` of schedule.cu.
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
struct CombineParams {
    y: DevicePtr,
    top_k_index: DevicePtr,
    top_k_weights: DevicePtr,
    out: DevicePtr,
    top_k: u32,
    experts: u32,
    hidden: u32,
    padding: u32,
}

static COMBINE: Kernel<CombineParams> = Kernel::new(&SCHEDULE, "combine", 256);
/// Values that a block of `combine` writes: four of each thread, 16 bytes.
const COMBINED: usize = 4 * 256;

/// The pairs of a call, ordered by expert.
#[derive(Debug, Clone, Copy)]
pub(super) struct OrderedPairs {
    /// The first position of each expert, and the end of the last, [E + 1].
    pub(super) offsets: DevicePtr,
    /// The token of each position.
    pub(super) tokens: DevicePtr,
    /// The pair of each position.
    pub(super) pairs: DevicePtr,
}

/// What a layer computes in.
#[derive(Debug, Default)]
pub(super) struct GroupedScratch {
    x: Narrowed,
    /// Results of the activation in the weights' type, a row for each position.
    inner: CudaBuffer,
    /// Results of the experts in f32, a row for each pair.
    y: CudaBuffer,
}

/// A call whose hidden states are rounded to the weights' type.
#[derive(Debug)]
pub(super) struct GroupedLayer<'a> {
    cuda: &'a Cuda,
    tables: &'a Tables,
    sizes: Sizes,
    activation: ActivationParams,
    x: DevicePtr,
    x_stride: usize,
    x_aligned: bool,
    inner: DevicePtr,
    inner_stride: usize,
    y: DevicePtr,
}

impl<'a> GroupedLayer<'a> {
    pub(super) fn new(
        cuda: &'a Cuda,
        experts: &Experts<Cuda>,
        x: &CudaTensor,
        routing: &CudaRouting,
        tables: &'a Tables,
        scratch: &mut GroupedScratch,
    ) -> Result<Self> {
        let spec = experts.spec();
        let sizes = Sizes::new(experts, x, routing);
        let dtype = dtype(spec);
        scratch.x.load(cuda, x, dtype)?;
        let element = dtype.size_bytes();
        let inner_stride = sizes.intermediate.next_multiple_of(16 / element);
        scratch.inner.reserve(cuda, sizes.pairs() * inner_stride * element)?;
        scratch.y.reserve(cuda, 4 * sizes.pairs() * sizes.hidden)?;
        Ok(Self {
            cuda,
            tables,
            sizes,
            activation: ActivationParams::new(spec.activation, spec.gated),
            x: scratch.x.ptr(cuda, x),
            x_stride: scratch.x.stride(),
            x_aligned: scratch.x.aligned(),
            inner: scratch.inner.ptr(cuda),
            inner_stride,
            y: scratch.y.ptr(cuda),
        })
    }

    /// Computes the pairs of `count` experts from `first` on.
    ///
    /// - `positions`: how many pairs these are, at most
    ///
    /// # Safety
    /// x, the routing and the tables given to `new` fit their experts. `ordered` has offsets for all of
    /// them that end at T · K at most, and for each position the token and the pair of the routing.
    pub(super) unsafe fn run(
        &self,
        ordered: OrderedPairs,
        first: usize,
        count: usize,
        positions: usize,
    ) -> Result<()> {
        let Self { tables: Tables { gate_up, down }, .. } = self;
        let params = |groups: &Groups, x_aligned: bool| GroupedParams {
            offsets: ordered.offsets.offset(4 * first),
            weights: groups.from(self.cuda, first),
            groups: count as u32,
            depth: groups.depth as u32,
            outs: groups.outs as u32,
            vector: u32::from(x_aligned && groups.aligned),
            ..GroupedParams::zeroed()
        };
        let gate_up_params = GroupedParams {
            x: self.x,
            x_rows: ordered.tokens,
            x_stride: self.x_stride as u64,
            out: self.inner,
            out_stride: self.inner_stride as u64,
            activated: 1,
            activation: self.activation,
            ..params(gate_up, self.x_aligned)
        };
        // SAFETY: the offsets, weights and rows of x are those that the caller promises, in the weights'
        // type; `new` grew `inner` to a row for each position. `vector` is set where all rows are aligned.
        unsafe { gate_up.multiply(self.cuda, gate_up_params, positions) }?;
        let down_params = GroupedParams {
            x: self.inner,
            x_stride: self.inner_stride as u64,
            out: self.y,
            out_rows: ordered.pairs,
            out_stride: self.sizes.hidden as u64,
            out_f32: 1,
            ..params(down, true)
        };
        // SAFETY: as above. The rows of `inner` were written just now and begin at multiples of 16 bytes;
        // `new` grew `y` to a row for each pair.
        unsafe { down.multiply(self.cuda, down_params, positions) }
    }

    /// Computes the weighted sum of each token's pairs.
    ///
    /// # Safety
    /// As [`run`](Self::run), which has computed all pairs of an expert. `out` is [T, H].
    pub(super) unsafe fn combine(&self, routing: &CudaRouting, out: &CudaTensor) -> Result<()> {
        let Sizes { tokens, top_k, experts, hidden, .. } = self.sizes;
        let params = CombineParams {
            y: self.y,
            top_k_index: routing.top_k_index(self.cuda),
            top_k_weights: routing.top_k_weights(self.cuda),
            out: out.ptr(self.cuda),
            top_k: top_k as u32,
            experts: experts as u32,
            hidden: hidden as u32,
            padding: 0,
        };
        let grid = [tokens, hidden.div_ceil(COMBINED), 1];
        // SAFETY: `combine` takes a `CombineParams`. It reads the rows of `y` whose pairs have an expert,
        // which were written, and writes the rows of `out` that the caller promises.
        unsafe { self.cuda.launch(&COMBINE, grid, 0, params) }
    }
}
