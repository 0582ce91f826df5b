//! A layer as two grouped products and a weighted sum, for pairs that are ordered by expert.

use bytemuck::{NoUninit, Zeroable};
use moexperts_core::{Experts, Result};

use super::{Sizes, dtype, tables::Tables};
use crate::{
    cuda::Cuda,
    driver::DevicePtr,
    elementwise::activation::ActivationParams,
    kernels::{Kernel, SCHEDULE},
    product::grouped::{GroupedParams, Groups},
    product::narrow::Narrowed,
    runtime::memory::{Buffer, CudaRouting, CudaTensor},
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
/// Values that a block of it writes.
const COMBINED: usize = 4 * 256;

/// Which pairs there are, ordered by expert.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ordered {
    /// Where the positions of an expert begin, [E + 1].
    pub(super) offsets: DevicePtr,
    /// The token of each position.
    pub(super) tokens: DevicePtr,
    /// The pair of each position.
    pub(super) pairs: DevicePtr,
}

/// Room of one caller.
#[derive(Debug, Default)]
pub(super) struct Room {
    x: Narrowed,
    /// What leaves the activation, in the weights' type: a row for each position.
    inner: Buffer,
    /// What leaves the experts, in f32: a row for each pair.
    y: Buffer,
}

/// A call whose hidden states are in the weights' type.
#[derive(Debug)]
pub(super) struct Layer<'a> {
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

impl<'a> Layer<'a> {
    pub(super) fn new(
        cuda: &'a Cuda,
        experts: &Experts<Cuda>,
        x: &CudaTensor,
        routing: &CudaRouting,
        tables: &'a Tables,
        room: &mut Room,
    ) -> Result<Self> {
        let spec = experts.spec();
        let sizes = Sizes::new(experts, x, routing);
        let dtype = dtype(spec);
        room.x.load(cuda, x, dtype)?;
        let element = dtype.size_bytes();
        let inner_stride = sizes.intermediate.next_multiple_of(16 / element);
        room.inner.reserve(cuda, sizes.pairs() * inner_stride * element)?;
        room.y.reserve(cuda, 4 * sizes.pairs() * sizes.hidden)?;
        Ok(Self {
            cuda,
            tables,
            sizes,
            activation: ActivationParams::new(spec.activation, spec.gated),
            x: room.x.ptr(x),
            x_stride: room.x.stride(),
            x_aligned: room.x.aligned(),
            inner: room.inner.ptr(),
            inner_stride,
            y: room.y.ptr(),
        })
    }

    /// Lets at most so many pairs of the `count` experts from `first` on pass them.
    pub(super) fn run(
        &self,
        ordered: Ordered,
        first: usize,
        count: usize,
        positions: usize,
    ) -> Result<()> {
        let Self { tables: Tables { gate_up, down }, .. } = self;
        let params = |groups: &Groups, x_aligned: bool| GroupedParams {
            offsets: ordered.offsets.offset(4 * first),
            weights: groups.from(first),
            groups: count as u32,
            depth: groups.depth as u32,
            outs: groups.outs as u32,
            vector: u32::from(x_aligned && groups.aligned),
            ..GroupedParams::zeroed()
        };
        let into = GroupedParams {
            x: self.x,
            x_rows: ordered.tokens,
            x_stride: self.x_stride as u64,
            out: self.inner,
            out_stride: self.inner_stride as u64,
            activated: 1,
            activation: self.activation,
            ..params(gate_up, self.x_aligned)
        };
        gate_up.multiply(self.cuda, into, positions)?;
        let out_of = GroupedParams {
            x: self.inner,
            x_stride: self.inner_stride as u64,
            out: self.y,
            out_rows: ordered.pairs,
            out_stride: self.sizes.hidden as u64,
            out_f32: 1,
            ..params(down, true)
        };
        down.multiply(self.cuda, out_of, positions)
    }

    /// The weighted sum of each token's pairs.
    pub(super) fn combine(&self, routing: &CudaRouting, out: &CudaTensor) -> Result<()> {
        let Sizes { tokens, top_k, experts, hidden, .. } = self.sizes;
        let params = CombineParams {
            y: self.y,
            top_k_index: routing.top_k_index(),
            top_k_weights: routing.top_k_weights(),
            out: out.ptr(),
            top_k: top_k as u32,
            experts: experts as u32,
            hidden: hidden as u32,
            padding: 0,
        };
        self.cuda.launch(&COMBINE, [tokens, hidden.div_ceil(COMBINED), 1], 0, params)
    }
}
