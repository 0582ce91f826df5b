//! What a GPU is measured with does what it is said to do.

use bytemuck::{Pod, Zeroable, bytes_of, cast_slice, cast_slice_mut};
use moexperts_core::DType;
use moexperts_cuda::{
    Cuda,
    driver::{DevicePtr, Work},
    kernels::{Kernel, LIMITS},
    limits::Limits,
};
use moexperts_cuda_emulator::{EmulatorOptions, test_devices, test_gpu};

fn device() -> Cuda {
    let options = EmulatorOptions { multiprocessors: 2, ..EmulatorOptions::default() };
    let (_, cuda) = test_devices(&[options]).pop().unwrap();
    cuda
}

/// `ReadParams` of limits.cu.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ReadParams {
    from: DevicePtr,
    out: DevicePtr,
    len: u64,
}

#[test]
fn every_value_is_read_once() {
    let cuda = device();
    let read: Kernel<ReadParams> = Kernel::new(&LIMITS, "read_bandwidth", 256);
    let (blocks, threads) = (2, 2 * 256);
    // Four at once, one at a time, both, and neither.
    for len in [4 * threads, threads - 1, 9 * threads + 3, 1, 0] {
        let values: Vec<u32> = (0..4 * len as u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
        let from = cuda.driver().alloc((4 * values.len()).max(1)).unwrap();
        let out = cuda.driver().alloc(4 * threads).unwrap();
        cuda.submit(Work::Upload { to: from, bytes: cast_slice(&values) }).unwrap();
        cuda.launch(&read, [blocks, 1, 1], 0, ReadParams { from, out, len: len as u64 }).unwrap();
        let mut sums = vec![0_u32; threads];
        cuda.driver().read(out, cast_slice_mut(&mut sums)).unwrap();
        let all = |values: &[u32]| values.iter().fold(0, |sum, value| sum ^ value);
        assert_eq!(all(&sums), all(&values), "{len}");
        cuda.driver().free(from);
        cuda.driver().free(out);
    }
    assert_eq!(bytes_of(&ReadParams::zeroed()).len(), 24);
}

#[test]
fn memory_and_the_linear_layer_are_measured() {
    let cuda = device();
    let mut limits = Limits::with_sizes(&cuda, (1 << 16) + 5, Some((DType::Bf16, 64)));
    for _ in 0..2 {
        let free = cuda.driver().free_bytes().unwrap();
        let bandwidth = limits.bandwidth().unwrap();
        // A real one also loads what it runs.
        if test_gpu().is_none() {
            assert_eq!(cuda.driver().free_bytes().unwrap(), free, "nothing is kept");
        }
        assert_eq!(bandwidth.buffer_bytes, 1 << 16);
        let [read, copy] = [bandwidth.read_bytes_per_second, bandwidth.copy_bytes_per_second];
        assert!(read > 0.0 && copy > 0.0 && bandwidth.bytes_per_second() == read.max(copy));
        let linear = limits.linear().unwrap().unwrap();
        if test_gpu().is_none() {
            assert_eq!(cuda.driver().free_bytes().unwrap(), free, "nothing is kept");
        }
        assert_eq!((linear.dtype, linear.size), (DType::Bf16, 64));
        assert!(linear.flops_per_second > 0.0);
    }
    assert_eq!(Limits::with_sizes(&cuda, 64, None).linear().unwrap(), None);
}

#[test]
fn a_product_fits_what_is_free() {
    let options = EmulatorOptions { memory_bytes: 1 << 20, ..EmulatorOptions::default() };
    let (_, cuda) = test_devices(&[options]).pop().unwrap();
    if test_gpu().is_some() {
        eprintln!("skipped: a GPU has more memory than the test is for");
        return;
    }
    let mut limits = Limits::with_sizes(&cuda, 64, Some((DType::F32, 1 << 13)));
    assert_eq!(limits.linear().unwrap().unwrap().size, 128, "196 608 bytes of 262 144");
}
