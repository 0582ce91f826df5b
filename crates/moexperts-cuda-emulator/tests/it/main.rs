//! The emulator runs kernels, and finds the mistakes that it is made to find.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail with them")]

use bytemuck::{NoUninit, Pod, Zeroable};
use moexperts_core::Error;
use moexperts_cuda::{
    driver::{BorrowedWork, DevicePtr, Launch, TensorMapSpec, Work},
    kernels::{MODULES, Module, PRELUDE},
};
use moexperts_cuda_emulator::{Copies, Emulator, EmulatorOptions, Order, compiled_kernels};

static BASICS: Module = Module { files: &[("basics.cu", "")], hopper: false };
static PRODUCTS: Module = Module { files: &[("products.cu", "")], hopper: false };

/// `BasicsParams` of basics.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Basics {
    from: u64,
    to: u64,
    count: u32,
    mistake: u32,
}

/// `ProductParams` of products.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Product {
    a: u64,
    b: u64,
    d: u64,
    maps: u64,
    depth: u32,
    mistake: u32,
}

/// A kernel, its blocks, their threads and bytes of shared memory.
type Kernel = (&'static Module, &'static str, u32, u32, u32);

const TURN_AROUND: Kernel = (&BASICS, "turn_around", 7, 256, 1024);

fn emulator(order: Order, copies: Copies) -> Emulator {
    Emulator::new(EmulatorOptions { order, copies, ..EmulatorOptions::default() })
}

fn all_ways() -> Vec<Emulator> {
    let orders = [Order::Ascending, Order::Descending, Order::Shuffled(1), Order::Shuffled(2)];
    let both = |order| [emulator(order, Copies::Early), emulator(order, Copies::Late)];
    orders.into_iter().flat_map(both).collect()
}

fn put<T: NoUninit>(gpu: &Emulator, values: &[T]) -> u64 {
    let bytes = bytemuck::cast_slice(values);
    let to = gpu.driver().alloc(bytes.len()).unwrap();
    // SAFETY: as many bytes were allocated just now.
    unsafe { gpu.driver().submit(Work::Upload { to, bytes }) }.unwrap();
    to.address()
}

fn get<T: Pod>(gpu: &Emulator, from: u64, count: usize) -> Vec<T> {
    let mut values = vec![T::zeroed(); count];
    let from = DevicePtr::from_address(from);
    // SAFETY: the emulator looks the range up before it reads.
    unsafe { gpu.driver().read(from, bytemuck::cast_slice_mut(&mut values)) }.unwrap();
    values
}

fn launch_of(
    (module, kernel, blocks, threads, shared_bytes): Kernel,
    params: &[u8],
) -> Launch<&[u8]> {
    Launch { module, kernel, grid: [blocks, 1, 1], threads, shared_bytes, params }
}

fn launch<P: NoUninit>(gpu: &Emulator, kernel: Kernel, params: &P) -> Result<(), String> {
    let work = Work::Launch(launch_of(kernel, bytemuck::bytes_of(params)));
    // SAFETY: the emulator compares the kernel's struct with the parameters. Tests allocate what kernels
    // access, but for mistakes that guards and the signal handler turn into errors.
    unsafe { gpu.driver().submit(work) }.map_err(|e| match e {
        Error::Device { problem, .. } => problem,
        other => panic!("{other}"),
    })
}

/// Runs a kernel of basics.cu from some values to `count` others.
fn run(
    gpu: &Emulator,
    kernel: Kernel,
    from: &[u32],
    count: usize,
    mistake: u32,
) -> Result<Vec<u32>, String> {
    let to = put(gpu, &vec![0_u32; count]);
    let params = Basics { from: put(gpu, from), to, count: count as u32, mistake };
    launch(gpu, kernel, &params)?;
    Ok(get(gpu, to, count))
}

#[test]
fn every_module_compiled() {
    let kernels = compiled_kernels();
    let broken: Vec<_> = kernels.iter().filter(|(_, name)| name.is_empty()).collect();
    assert!(broken.is_empty(), "{broken:?}");
    for module in MODULES {
        assert!(kernels.iter().any(|(name, _)| name == module.name()), "{}", module.name());
    }
    let mut names: Vec<_> = kernels.iter().map(|(_, name)| name).collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "two kernels of the same name");
}

/// The functions and structs of a file.
fn declared(text: &str) -> Vec<&str> {
    let names = text.lines().filter_map(|line| {
        let line = line.strip_prefix("template <int N> ").unwrap_or(line);
        if let Some(rest) = line.strip_prefix("struct ") {
            return rest.split(" {").next()?.split(' ').next_back();
        }
        line.strip_prefix("DEVICE ")?.split('(').next()?.split(' ').next_back()
    });
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names
}

#[test]
fn every_instruction_is_emulated() {
    let [_, (_, real)] = PRELUDE;
    let emulated = include_str!("../../emulated/ptx.cuh");
    assert_eq!(declared(emulated), declared(real));
}

#[test]
fn a_missing_barrier_shows() {
    let from: Vec<u32> = (0..7 * 256).collect();
    let turned: Vec<u32> = from.chunks(256).flat_map(|chunk| chunk.iter().rev().copied()).collect();
    for gpu in all_ways() {
        assert_eq!(run(&gpu, TURN_AROUND, &from, from.len(), 0).unwrap(), turned);
        assert_ne!(run(&gpu, TURN_AROUND, &from, from.len(), 1).unwrap(), turned);
    }
}

#[test]
fn lanes_meet() {
    let from: Vec<u32> = (0..64_u32).map(|i| i * i % 23).collect();
    for gpu in all_ways() {
        let turned = run(&gpu, (&BASICS, "turn_warps_around", 1, 64, 0), &from, 64, 0).unwrap();
        for (i, &value) in turned.iter().enumerate() {
            assert_eq!(value, from[i / 32 * 32 + 31 - i % 32]);
        }
        let answers = run(&gpu, (&BASICS, "ask_warps", 1, 64, 0), &from, 256, 0).unwrap();
        for (i, got) in answers.chunks(4).enumerate() {
            let (warp, lane) = (&from[i / 32 * 32..][..32], i % 32);
            let odd = warp.iter().rev().fold(0, |bits, value| (bits << 1) | (value % 2));
            let before = warp[..lane].iter().filter(|value| *value % 4 == warp[lane] % 4).count();
            let other = if lane < 16 { lane.saturating_sub(1) } else { (lane + 1).min(31) };
            assert_eq!(got, [warp.iter().sum(), odd, before as u32, warp[other]], "thread {i}");
        }
    }
}

#[test]
fn a_missing_wait_shows() {
    let from: Vec<u32> = (1..=256).collect();
    let mut copied = from.clone();
    copied[253..].fill(0);
    let kernel = (&BASICS, "copy_behind", 1, 64, 1024);
    for gpu in all_ways() {
        assert_eq!(run(&gpu, kernel, &from, 256, 0).unwrap(), copied);
    }
    let late = emulator(Order::Ascending, Copies::Late);
    assert_eq!(run(&late, kernel, &from, 256, 1).unwrap(), [u32::MAX; 256]);
}

#[test]
fn threads_that_wait_for_ever_are_named() {
    let gpu = emulator(Order::Ascending, Copies::Late);
    let problem = run(&gpu, (&BASICS, "lock_up", 1, 64, 0), &[0], 64, 0).unwrap_err();
    let expected = "kernel `lock_up`, block (0, 0, 0): no thread can go on: \
                    threads 0, 2, 4, 6 and others at __syncwarp of the lanes ffffffff (basics.cu:";
    assert!(problem.contains(expected), "{problem}");
    assert!(
        problem.contains("; threads 1, 3, 5, 7 and others at __syncthreads (basics.cu:"),
        "{problem}"
    );
    let problem = run(&gpu, (&BASICS, "wait_apart", 1, 64, 0), &[0], 64, 0).unwrap_err();
    assert!(problem.contains("wait at different places"), "{problem}");
    // The device goes on after an error.
    let early = run(&gpu, (&BASICS, "return_early", 1, 64, 0), &[0], 40, 0).unwrap();
    assert_eq!(early, (0..40).collect::<Vec<u32>>());
}

#[test]
fn writes_beyond_memory_show() {
    let gpu = emulator(Order::Ascending, Copies::Late);
    let fails = |kernel: &'static str, mistake, expected: &str| {
        let kernel = (&BASICS, kernel, 1, 64, 256);
        run(&gpu, kernel, &[0], 64, 0).unwrap();
        let problem = run(&gpu, kernel, &[0], 64, mistake).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    };
    fails(
        "write_beyond",
        1,
        "launching `write_beyond` of `basics.cu`: something was written after the 256 bytes",
    );
    fails("write_beyond_shared", 1, "beyond the block's 256 bytes of shared memory");
    fails("misaligned", 1, "an address that is no multiple of 8 was accessed");
    fails("write_nowhere", 1, "block (0, 0, 0), thread 5: an illegal address was accessed: 0x10");
}

#[test]
fn a_launch_that_differs_from_its_kernel_fails() {
    let gpu = emulator(Order::Ascending, Copies::Late);
    let params = Basics { from: 0, to: 0, count: 0, mistake: 0 };
    let fails = |kernel, expected: &str| {
        let problem = launch(&gpu, kernel, &params).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    };
    fails((&BASICS, "no_such", 1, 64, 0), "there is no such kernel");
    fails((&BASICS, "nothing", 1, 128, 0), "blocks of 128 threads, expected 256");
    fails((&BASICS, "nothing", 0, 256, 0), "a grid of [0, 1, 1] blocks");
    fails((&BASICS, "nothing", 1, 256, 1 << 20), "bytes of shared memory");
    let problem = launch(&gpu, (&BASICS, "nothing", 1, 256, 0), &[0_u8; 8]).unwrap_err();
    assert!(problem.contains("its argument has 8 bytes, expected 24"), "{problem}");
    static HOPPER: Module = Module { files: &[("basics.cu", "")], hopper: true };
    let older = Emulator::new(EmulatorOptions { compute_capability: (8, 0), ..Default::default() });
    let problem = launch(&older, (&HOPPER, "nothing", 1, 256, 0), &params).unwrap_err();
    assert!(problem.contains("compiled for sm_90a, which sm_80 does not run"), "{problem}");
}

#[test]
fn memory_is_counted_and_looked_up() {
    let options = EmulatorOptions { memory_bytes: 1000, ..EmulatorOptions::default() };
    let gpu = Emulator::new(options);
    let gpu = gpu.driver();
    let at = gpu.alloc(600).unwrap();
    assert_eq!(at.address() % 256, 0);
    let problem = gpu.alloc(401).unwrap_err().to_string();
    assert!(problem.contains("401 bytes needed, 400 of 1000 free"), "{problem}");
    let mut values = [0_u8; 600];
    // SAFETY: the emulator looks ranges up before it accesses them, and knows what is allocated.
    unsafe {
        gpu.read(at, &mut values).unwrap();
        assert_eq!(values, [0xff; 600]);
        gpu.submit(Work::Zero { at, bytes: 300 }).unwrap();
        gpu.submit(Work::Copy { from: at, to: at.offset(300), bytes: 300 }).unwrap();
        gpu.read(at, &mut values).unwrap();
        assert_eq!(values, [0; 600]);
        assert!(gpu.submit(Work::Zero { at: at.offset(301), bytes: 300 }).is_err());
        gpu.free(at);
        assert_eq!(gpu.free_bytes().unwrap(), 1000);
        assert!(gpu.read(at, &mut [0]).is_err());
    }
}

#[test]
fn a_graph_repeats_with_new_uploads() {
    let gpu = emulator(Order::Ascending, Copies::Late);
    let (from, to) = (put(&gpu, &[0_u32; 256]), put(&gpu, &[0_u32; 256]));
    let params = Basics { from, to, count: 256, mistake: 0 };
    let (_, kernel, _, threads, shared) = TURN_AROUND;
    let works: [BorrowedWork<'_>; 2] = [
        Work::Upload { to: DevicePtr::from_address(from), bytes: &[0; 1024] },
        Work::Launch(launch_of((&BASICS, kernel, 1, threads, shared), bytemuck::bytes_of(&params))),
    ];
    let mut graph = gpu.driver().capture(&works).unwrap();
    assert_eq!(gpu.launches(), 0);
    for start in [5, 9] {
        let values: Vec<u32> = (start..start + 256).collect();
        // SAFETY: both buffers of 1024 bytes stay allocated.
        unsafe { graph.launch(&[bytemuck::cast_slice(&values)]) }.unwrap();
        let turned: Vec<u32> = values.into_iter().rev().collect();
        assert_eq!(get::<u32>(&gpu, to, 256), turned);
    }
    // SAFETY: as above.
    assert!(unsafe { graph.launch(&[&[0; 1020]]) }.is_err());
    assert_eq!(gpu.kernels(), ["turn_around", "turn_around"]);
    assert_eq!(gpu.synchronisations(), 2);
    gpu.reset();
    assert_eq!((gpu.launches(), gpu.synchronisations()), (0, 0));
}

#[test]
fn blocks_run_side_by_side() {
    let gpu = emulator(Order::Ascending, Copies::Late);
    let count = run(&gpu, (&BASICS, "count_threads", 5000, 96, 0), &[0], 1, 0).unwrap();
    assert_eq!(count, [5000 * 96]);
}

/// Small numbers whose products and sums are exact, in 16 bits.
fn numbers(count: usize, seed: u32, bf16: bool) -> (Vec<f32>, Vec<u16>) {
    let mut state = seed;
    let numbers = (0..count).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as f32 / 8.0 - 16.0
    });
    let numbers: Vec<f32> = numbers.collect();
    let bits = numbers.iter().map(|&x| {
        if bf16 { half::bf16::from_f32(x).to_bits() } else { half::f16::from_f32(x).to_bits() }
    });
    let bits = bits.collect();
    (numbers, bits)
}

fn product(a: &[f32], b: &[f32], depth: usize) -> Vec<f32> {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum();
    a.chunks(depth).flat_map(|x| b.chunks(depth).map(move |y| dot(x, y))).collect()
}

#[test]
fn mma_multiplies() {
    for (kernel, bf16) in [("mma_f16", false), ("mma_bf16", true)] {
        for gpu in all_ways() {
            let ((a, a_bits), (b, b_bits)) = (numbers(256, 1, bf16), numbers(128, 2, bf16));
            let d = put(&gpu, &[0.0_f32; 128]);
            let (a_at, b_at) = (put(&gpu, &a_bits), put(&gpu, &b_bits));
            let params = Product { a: a_at, b: b_at, d, maps: 0, depth: 16, mistake: 0 };
            launch(&gpu, (&PRODUCTS, kernel, 1, 32, 512), &params).unwrap();
            assert_eq!(get::<f32>(&gpu, d, 128), product(&a, &b, 16), "{kernel}");
        }
    }
}

/// The product of a [64, depth] and b [rows, depth] that a kernel computes, and the right one.
fn by_wgmma(
    gpu: &Emulator,
    kernel: &'static str,
    mistake: u32,
) -> Result<(Vec<f32>, Vec<f32>), String> {
    // The last columns and the last rows are beyond the matrices.
    let (depth, rows, bf16) = (200, 250, kernel.ends_with("bf16"));
    let ((a, a_bits), (mut b, b_bits)) =
        (numbers(64 * depth, 1, bf16), numbers(rows * depth, 2, bf16));
    let (a_at, b_at) = (put(gpu, &a_bits), put(gpu, &b_bits));
    let map = |at, rows, box_rows| {
        let at = DevicePtr::from_address(at);
        gpu.driver().tensor_map(TensorMapSpec {
            at,
            rows,
            cols: depth,
            row_bytes: 2 * depth,
            box_rows,
            bf16,
        })
    };
    let maps = [map(a_at, 64, 64).unwrap(), map(b_at, rows, 128).unwrap()].concat();
    let (maps, d) = (put(gpu, &maps), put(gpu, &[0.0_f32; 64 * 256]));
    let params = Product { a: a_at, b: b_at, d, maps, depth: depth as u32, mistake };
    launch(gpu, (&PRODUCTS, kernel, 1, 128, 64 * 128 + 256 * 128 + 16), &params)?;
    b.resize(256 * depth, 0.0);
    Ok((get(gpu, d, 64 * 256), product(&a, &b, depth)))
}

#[test]
fn wgmma_multiplies_what_the_accelerator_brings() {
    for kernel in ["wgmma_f16", "wgmma_bf16", "wgmma_copied_f16"] {
        for gpu in all_ways() {
            let (got, expected) = by_wgmma(&gpu, kernel, 0).unwrap();
            assert!(got == expected, "{kernel}: {:?}, expected {:?}", &got[..4], &expected[..4]);
        }
    }
}

#[test]
fn mistakes_with_the_accelerator_show() {
    let gpu = emulator(Order::Ascending, Copies::Late);
    let not_waited = by_wgmma(&gpu, "wgmma_f16", 1).unwrap_err();
    assert!(not_waited.contains("more arrive at the mbarrier"), "{not_waited}");
    let locked_up = by_wgmma(&gpu, "wgmma_f16", 2).unwrap_err();
    assert!(locked_up.contains("threads 0 to 127 at the mbarrier"), "{locked_up}");
    let not_fenced = by_wgmma(&gpu, "wgmma_copied_f16", 3).unwrap_err();
    assert!(not_fenced.contains("without fence_proxy_async"), "{not_fenced}");
}
