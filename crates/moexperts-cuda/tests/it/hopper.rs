//! Products of large groups on Hopper: the kernels by themselves, then the choice of them.

use crate::common::{bits, read, tensor, values};
use bytemuck::{NoUninit, Pod, Zeroable};
use moexperts_conformance::{Bounded, Case, Layer, Mismatch, Tolerance, cases};
use moexperts_core::{
    Activation, DType, Elements, Experts, ExpertsBackend, ExpertsCall, Linear, Matrix, Memory,
    Operations, Scratch, Tuning, reference,
};
use moexperts_cuda::{
    Cuda, CudaBuffer, CudaTensor, GroupedMm,
    driver::{DevicePtr, TensorMapSpec},
    kernels::{HOPPER, Kernel},
};
use moexperts_cuda_emulator::{Copies, Emulator, EmulatorOptions, Order, test_devices, test_gpu};

/// `GroupWeights` of grouped.cuh.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GroupWeights {
    at: [DevicePtr; 2],
    biases: [DevicePtr; 2],
    strides: [u64; 2],
}

/// `GroupedParams` of grouped.cuh.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GroupedParams {
    x: DevicePtr,
    offsets: DevicePtr,
    x_rows: DevicePtr,
    out_rows: DevicePtr,
    weights: DevicePtr,
    out: DevicePtr,
    x_stride: u64,
    out_stride: u64,
    only: GroupWeights,
    groups: u32,
    rows: u32,
    depth: u32,
    outs: u32,
    vector: u32,
    out_f32: u32,
    activated: u32,
    padding: u32,
    activation: u32,
    gated: u32,
    alpha: f32,
    limit: f32,
}

/// `HopperParams` of hopper.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct HopperParams {
    grouped: GroupedParams,
    maps: DevicePtr,
    padding: [u64; 3],
    map: [u8; 128],
}

const F16: Kernel<HopperParams> = Kernel::new(&HOPPER, "grouped_hopper_f16", 384);
const BF16: Kernel<HopperParams> = Kernel::new(&HOPPER, "grouped_hopper_bf16", 384);

/// Emulated Hopper GPUs that differ in the order of threads and in when copies happen; or the GPU that
/// tests run on, if it is a Hopper.
fn hoppers() -> Vec<(String, Cuda)> {
    let of = |order, copies| EmulatorOptions { order, copies, ..EmulatorOptions::default() };
    let mut devices = test_devices(&[
        of(Order::Ascending, Copies::Late),
        of(Order::Descending, Copies::Early),
        of(Order::Shuffled(7), Copies::Late),
        of(Order::Shuffled(8), Copies::Early),
    ]);
    devices.retain(|(_, cuda)| cuda.properties().compute_capability == (9, 0));
    devices
}

/// The buffers of a test.
struct Buffers<'a> {
    cuda: &'a Cuda,
    held: Vec<CudaBuffer>,
}

impl Buffers<'_> {
    fn put<T: NoUninit>(&mut self, values: &[T]) -> DevicePtr {
        let buffer = CudaBuffer::with_values(self.cuda, values).unwrap();
        self.held.push(buffer);
        self.held[self.held.len() - 1].ptr(self.cuda)
    }
}

fn bytes_of(matrix: &Matrix) -> &[u8] {
    match matrix.elements() {
        Elements::F32(values) => bytemuck::cast_slice(values),
        Elements::F16(values) => bytemuck::cast_slice(values),
        Elements::Bf16(values) => bytemuck::cast_slice(values),
    }
}

/// [rows, cols] with rows `stride` elements apart and NaN between them.
fn spread(matrix: &Matrix, stride: usize) -> Matrix {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let mut wide = vec![f32::NAN; rows * stride];
    for (row, to) in wide.chunks_exact_mut(stride).enumerate() {
        matrix.row(row).write_f32(&mut to[..cols]);
    }
    Matrix::from_f32(rows, stride, &wide, matrix.elements().dtype()).unwrap()
}

/// A grouped product.
#[derive(Debug, Clone)]
struct Product {
    dtype: DType,
    /// Positions of each group.
    positions: Vec<u32>,
    depth: usize,
    outs: usize,
    activation: Option<Activation>,
    gated: bool,
    bias: bool,
    out_f32: bool,
    /// Whether the rows of x and of the results are gathered and scattered.
    rows: bool,
    /// Elements between the results of a row and the next.
    gap: usize,
    /// Whether the one group is described in the parameters.
    only: bool,
}

impl Default for Product {
    fn default() -> Self {
        Self {
            dtype: DType::Bf16,
            positions: vec![100],
            depth: 24,
            outs: 40,
            activation: None,
            gated: false,
            bias: false,
            out_f32: false,
            rows: false,
            gap: 0,
            only: false,
        }
    }
}

impl Product {
    fn total(&self) -> usize {
        self.positions.iter().sum::<u32>() as usize
    }

    /// The weights of a group.
    fn layer(&self, group: usize, second: bool) -> Linear<Matrix, Vec<f32>> {
        let seed = 1000 * group as u64 + 2 * u64::from(second);
        let weight = values(self.outs * self.depth, seed);
        let weight = Matrix::from_f32(self.outs, self.depth, &weight, self.dtype).unwrap();
        Linear { weight, bias: self.bias.then(|| values(self.outs, seed + 1)) }
    }

    /// For each position, its row of x and its row of the results; then the number of rows of both.
    fn rows(&self) -> (Vec<u32>, Vec<u32>, [usize; 2]) {
        let total = self.total();
        if !self.rows {
            let all: Vec<u32> = (0..total as u32).collect();
            return (all.clone(), all, [total, total]);
        }
        let x_rows = total / 3 + 2;
        let from = (0..total).map(|i| (i * 7 % x_rows) as u32).collect();
        // From the last row on, every second one.
        let to = (0..total).map(|i| (2 * (total - i)) as u32).collect();
        (from, to, [x_rows, 2 * total + 1])
    }

    fn x(&self, rows: usize) -> Matrix {
        Matrix::from_f32(rows, self.depth, &values(rows * self.depth, 77), self.dtype).unwrap()
    }

    /// The results of each position.
    fn expected(&self) -> Vec<Vec<Bounded>> {
        let tolerance = Tolerance::new(self.dtype);
        let (from, _, [x_rows, _]) = self.rows();
        let x = self.x(x_rows);
        let mut from = from.into_iter();
        let mut all: Vec<Vec<Bounded>> = Vec::new();
        for (group, &positions) in self.positions.iter().enumerate() {
            let (first, second) = (self.layer(group, false), self.layer(group, true));
            for row in from.by_ref().take(positions as usize) {
                let row = x.row(row as usize).to_f32();
                let row: Vec<_> =
                    row.iter().map(|&value| Bounded::exact(f64::from(value))).collect();
                let of = |layer| tolerance.linear(layer, &row).into_iter();
                let results = match self.activation {
                    None => of(&first).collect(),
                    Some(activation) if self.gated => of(&first)
                        .zip(of(&second))
                        .map(|(gate, up)| tolerance.activate_gated(activation, gate, up))
                        .collect(),
                    Some(activation) => {
                        of(&first).map(|up| tolerance.activate(activation, up)).collect()
                    }
                };
                all.push(results);
            }
        }
        if !self.out_f32 {
            for Bounded { value, error } in all.iter_mut().flatten() {
                *error += self.dtype.epsilon() / 2.0 * (value.abs() + *error);
                *error += 2.0_f64.powi(-25);
            }
        }
        all
    }

    /// The results [rows, outs + gap], computed by `blocks` blocks; NaN where nothing was stored.
    fn run(&self, cuda: &Cuda, blocks: usize) -> Vec<f32> {
        let mut memory = Buffers { cuda, held: Vec::new() };
        let (from, to, [x_rows, out_rows]) = self.rows();
        let x_stride = self.depth.next_multiple_of(8) + 8;
        let stride = x_stride + 8;
        let mut groups = Vec::new();
        let mut maps = Vec::new();
        for group in 0..self.positions.len() {
            let mut weights = GroupWeights { strides: [stride as u64; 2], ..Zeroable::zeroed() };
            for second in [false, true] {
                let i = usize::from(second);
                if second && !self.gated {
                    maps.push([0; 128]);
                    continue;
                }
                let Linear { weight, bias } = self.layer(group, second);
                let at = memory.put(bytes_of(&spread(&weight, stride)));
                weights.at[i] = at;
                if let Some(bias) = bias {
                    weights.biases[i] = memory.put(&bias);
                }
                let map = cuda.driver().tensor_map(TensorMapSpec {
                    at,
                    rows: self.outs,
                    cols: self.depth,
                    row_bytes: 2 * stride,
                    box_rows: 128,
                    bf16: self.dtype == DType::Bf16,
                });
                maps.push(map.unwrap());
            }
            groups.push(weights);
        }
        let mut offsets = vec![0];
        for positions in &self.positions {
            offsets.push(offsets.last().unwrap() + positions);
        }
        let columns = self.outs + self.gap;
        let stored = if self.out_f32 { DType::F32 } else { self.dtype };
        let out = Matrix::from_f32(out_rows, columns, &vec![f32::NAN; out_rows * columns], stored);
        let out = out.unwrap();
        let out_buffer = CudaBuffer::with_values(cuda, bytes_of(&out)).unwrap();
        let (activation, alpha, limit) = match self.activation {
            None | Some(Activation::Silu) => (0, 0.0, 0.0),
            Some(Activation::Gelu) => (1, 0.0, 0.0),
            Some(Activation::GeluTanh) => (2, 0.0, 0.0),
            Some(Activation::ClampedSwiglu { alpha, limit }) => (3, alpha, limit),
            Some(Activation::Relu2) => (4, 0.0, 0.0),
            Some(Activation::ClampedSilu { limit }) => (5, 1.0, limit),
            Some(activation) => panic!("no number of {}", activation.name()),
        };
        let null = DevicePtr::NULL;
        let [x_rows_at, out_rows_at] =
            if self.rows { [memory.put(&from), memory.put(&to)] } else { [null; 2] };
        let [offsets_at, weights_at, maps_at] = match self.only {
            true => [null; 3],
            false => [memory.put(&offsets), memory.put(&groups), memory.put(maps.as_flattened())],
        };
        let grouped = GroupedParams {
            x: memory.put(bytes_of(&spread(&self.x(x_rows), x_stride))),
            offsets: offsets_at,
            x_rows: x_rows_at,
            out_rows: out_rows_at,
            weights: weights_at,
            out: out_buffer.ptr(cuda),
            x_stride: x_stride as u64,
            out_stride: columns as u64,
            only: if self.only { groups[0] } else { Zeroable::zeroed() },
            groups: self.positions.len() as u32,
            rows: self.total() as u32,
            depth: self.depth as u32,
            outs: self.outs as u32,
            vector: 1,
            out_f32: u32::from(self.out_f32),
            activated: u32::from(self.activation.is_some()),
            padding: 0,
            activation,
            gated: u32::from(self.gated),
            alpha,
            limit,
        };
        let map = if self.only { maps[0] } else { [0; 128] };
        let params = HopperParams { grouped, maps: maps_at, padding: [0; 3], map };
        let kernel = if self.dtype == DType::Bf16 { &BF16 } else { &F16 };
        let shared_bytes = 4 * (128 * (128 + 256) + 16) + 4 * (self.positions.len() + 1);
        // SAFETY: the kernel takes a `HopperParams`. Offsets, rows, weights and maps are those of this
        // product, uploaded above into buffers that stay until the results are read.
        unsafe { cuda.launch(kernel, [blocks, 1, 1], shared_bytes, params) }.unwrap();
        let bytes = bytes_of(&out).len();
        // In words, to be aligned for every type.
        let mut words = vec![0_u64; bytes.div_ceil(8)];
        let bytes: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut words)[..bytes];
        out_buffer.read(cuda, bytes).unwrap();
        let stored = match stored {
            DType::F32 => Elements::F32(bytemuck::cast_slice(bytes)),
            DType::F16 => Elements::F16(bytemuck::cast_slice(bytes)),
            DType::Bf16 => Elements::Bf16(bytemuck::cast_slice(bytes)),
        };
        stored.to_f32()
    }

    /// Checks the results on every Hopper, which all have the same bits.
    fn check(&self) {
        let (_, to, [_, out_rows]) = self.rows();
        let mut results = vec![None; out_rows];
        for (to, result) in to.into_iter().zip(self.expected()) {
            results[to as usize] = Some(result);
        }
        let mut first: Option<Vec<f32>> = None;
        for (name, cuda) in hoppers() {
            // One block computes all tiles; three blocks compute different numbers of them.
            for blocks in [1, 3] {
                let got = self.run(&cuda, blocks);
                let rows = got.chunks_exact(self.outs + self.gap);
                for (row, (got, expected)) in rows.zip(&results).enumerate() {
                    for (out, &got) in got.iter().enumerate() {
                        let what = || format!("{name}, {self:?}, [{row}, {out}]: {got}");
                        match expected.as_ref().and_then(|expected| expected.get(out)) {
                            Some(&Bounded { value, error }) => {
                                let near = (f64::from(got) - value).abs() <= error;
                                assert!(near, "{}, expected {value} within {error}", what());
                            }
                            None => assert!(got.is_nan(), "{}, where nothing is stored", what()),
                        }
                    }
                }
                let first = first.get_or_insert_with(|| got.clone());
                assert_eq!(bits(first), bits(&got), "{name}, {self:?}");
            }
        }
    }
}

const BOTH: [DType; 2] = [DType::F16, DType::Bf16];

#[test]
fn gated_products_of_gathered_rows_are_right() {
    for dtype in BOTH {
        Product {
            dtype,
            // No position, a tile and two, half a tile, one, half a tile and one.
            positions: vec![0, 130, 64, 1, 0, 65],
            depth: 200,
            outs: 150,
            activation: Some(Activation::Silu),
            gated: true,
            bias: true,
            rows: true,
            gap: 2,
            ..Product::default()
        }
        .check();
    }
}

#[test]
fn plain_products_are_right() {
    for dtype in BOTH {
        for out_f32 in [false, true] {
            // Rows of results that are aligned, and that begin one element later each.
            for gap in [0, 1] {
                // A depth that ends within 16 bytes, outputs within eight or in one box of two.
                for (depth, outs) in [(75, 303), (64, 264)] {
                    let positions = vec![70];
                    Product { dtype, positions, depth, outs, gap, out_f32, ..Product::default() }
                        .check();
                }
            }
        }
    }
}

#[test]
fn every_activation_is_right() {
    for activation in [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::ClampedSwiglu { alpha: 1.702, limit: 1.5 },
        Activation::ClampedSilu { limit: 1.5 },
        Activation::Relu2,
    ] {
        for gated in [false, true] {
            if !gated && activation.needs_gate() {
                continue;
            }
            let activation = Some(activation);
            Product { activation, gated, outs: 130, out_f32: true, ..Product::default() }.check();
        }
    }
}

#[test]
fn steps_go_round_the_ring_and_tiles_overlap() {
    Product {
        positions: vec![200, 3, 140, 64, 90],
        depth: 64 * 7 + 8,
        outs: 257,
        bias: true,
        ..Product::default()
    }
    .check();
}

#[test]
fn the_only_group_may_be_described_in_the_parameters() {
    for positions in [1, 128, 300] {
        let positions = vec![positions];
        Product { positions, depth: 130, outs: 300, bias: true, only: true, ..Product::default() }
            .check();
    }
}

#[test]
fn there_may_be_many_groups_and_many_positions() {
    // More groups than a warp has lanes; more tiles of positions than are computed side by side.
    let positions = (0..70).map(|group| group % 3).collect();
    Product { positions, rows: true, ..Product::default() }.check();
    let positions = vec![5, 17 * 128 + 3];
    Product { positions, depth: 8, outs: 260, ..Product::default() }.check();
}

/// An emulated Hopper so small that the kernels are chosen for a few tiles.
fn small() -> Emulator {
    Emulator::new(EmulatorOptions { multiprocessors: 2, ..EmulatorOptions::default() })
}

#[test]
fn layers_of_many_rows_choose_the_kernels_of_hopper() {
    if test_gpu().is_some() {
        return;
    }
    let gpu = small();
    let cuda = gpu.cuda();
    for dtype in BOTH {
        let kernel = if dtype == DType::F16 { "grouped_hopper_f16" } else { "grouped_hopper_bf16" };
        let weight = Matrix::from_f32(300, 72, &values(300 * 72, 3), dtype).unwrap();
        let bias = Some(values(300, 4));
        let on_host = Linear { weight: weight.clone(), bias: bias.clone() };
        let weight = cuda.load_matrix(weight).unwrap();
        let bias = bias.map(|bias| cuda.load_vector(bias).unwrap());
        assert_eq!(cuda.kernel_name(&weight, 150), "sm_90 wgmma 256x128");
        let linear = Linear { weight, bias };
        let x = tensor(&cuda, 150, 72, 5);
        let mut out = [CudaTensor::default()];
        gpu.reset();
        cuda.linear(&x, &[&linear], &mut Scratch::default(), &mut out).unwrap();
        assert!(gpu.kernels().contains(&kernel), "{:?}", gpu.kernels());
        let (x, out) = (read(&cuda, &x), read(&cuda, &out[0]));
        for (x, out) in x.chunks_exact(72).zip(out.chunks_exact(300)) {
            let x: Vec<_> = x.iter().map(|&value| Bounded::exact(f64::from(value))).collect();
            for (&got, expected) in out.iter().zip(Tolerance::new(dtype).linear(&on_host, &x)) {
                let Bounded { value, error } = expected;
                assert!((f64::from(got) - value).abs() <= error, "{got}, expected {value}");
            }
        }
    }
}

#[test]
fn experts_of_many_tokens_choose_the_kernels_of_hopper() {
    if test_gpu().is_some() {
        return;
    }
    let gpu = small();
    let device = &gpu.cuda();
    for dtype in BOTH {
        let mut case: Case = cases().into_iter().find(|case| case.name == "big").unwrap();
        case.spec = case.spec.with_experts(4).with_format(dtype.into());
        (case.tokens, case.top_k) = (120, 2);
        (case.spec.hidden, case.spec.intermediate) = (72, 40);
        for (gated, bias) in [(true, false), (true, true), (false, true)] {
            (case.spec.gated, case.spec.bias) = (gated, bias);
            let layer = Layer::new(&case);
            let experts = &Experts::load(device, case.spec, layer.experts.clone()).unwrap();
            let (mut x, mut out) = (CudaTensor::default(), CudaTensor::default());
            device.load_tensor(120, 72, layer.x.data(), &mut x).unwrap();
            device.reset_tensor(&mut out, 120, 72).unwrap();
            let routing = &device.load_routing(layer.routing.clone()).unwrap();
            let scratch = &mut Scratch::default();
            gpu.reset();
            GroupedMm
                .forward(ExpertsCall { device, experts, x: &x, routing, scratch }, &mut out)
                .unwrap();
            let chosen = gpu.kernels().iter().filter(|name| name.contains("hopper")).count();
            assert_eq!(chosen, 2, "{:?}", gpu.kernels());
            let Layer { experts, x, routing } = &layer;
            let activation = case.spec.activation;
            let expected = reference::experts(experts, activation, x, routing);
            let allowed = Tolerance::new(dtype).experts(experts, activation, x, routing);
            Mismatch::find(&read(device, &out), &expected, &allowed, 72)
                .unwrap_or_else(|mismatch| panic!("{case}: {mismatch:?}"));
        }
    }
}
