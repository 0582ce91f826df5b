//! The measurements of a GPU's limits.

use bytemuck::NoUninit;
use moexperts_conformance::skipped;
use moexperts_core::DType;
use moexperts_cuda::{
    Cuda, CudaBuffer,
    driver::DevicePtr,
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
#[derive(Debug, Clone, Copy, NoUninit)]
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
    // Lengths that are read four values at once, one at a time, both, and not at all.
    for len in [4 * threads, threads - 1, 9 * threads + 3, 1, 0] {
        let values: Vec<u32> = (0..4 * len as u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
        let from = CudaBuffer::with_values(&cuda, &values).unwrap();
        let out = CudaBuffer::new(&cuda, 4 * threads).unwrap();
        let params = ReadParams { from: from.ptr(&cuda), out: out.ptr(&cuda), len: len as u64 };
        // SAFETY: `read_bandwidth` takes a `ReadParams`; it reads `len` values of 16 bytes, which `from`
        // has, and each thread writes one sum.
        unsafe { cuda.launch(&read, [blocks, 1, 1], 0, params) }.unwrap();
        let mut sums = vec![0_u32; threads];
        out.read(&cuda, &mut sums).unwrap();
        let all = |values: &[u32]| values.iter().fold(0, |sum, value| sum ^ value);
        assert_eq!(all(&sums), all(&values), "{len}");
    }
}

#[test]
fn memory_and_the_linear_layer_are_measured() {
    let cuda = device();
    let mut limits = Limits::with_sizes(&cuda, (1 << 16) + 5, Some((DType::Bf16, 64)));
    for _ in 0..2 {
        let free = cuda.driver().free_bytes().unwrap();
        let bandwidth = limits.bandwidth().unwrap();
        // On a GPU, loaded kernels take memory too.
        if test_gpu().is_none() {
            assert_eq!(cuda.driver().free_bytes().unwrap(), free, "memory is freed");
        }
        assert_eq!(bandwidth.buffer_bytes, 1 << 16);
        let [read, copy] = [bandwidth.read_bytes_per_second, bandwidth.copy_bytes_per_second];
        assert!(read > 0.0 && copy > 0.0 && bandwidth.bytes_per_second() == read.max(copy));
        let linear = limits.linear().unwrap().unwrap();
        if test_gpu().is_none() {
            assert_eq!(cuda.driver().free_bytes().unwrap(), free, "memory is freed");
        }
        assert_eq!((linear.dtype, linear.size), (DType::Bf16, 64));
        assert!(linear.flops_per_second > 0.0);
    }
    assert_eq!(Limits::with_sizes(&cuda, 64, None).linear().unwrap(), None);
}

#[test]
fn a_product_fits_the_free_memory() {
    let options = EmulatorOptions { memory_bytes: 1 << 20, ..EmulatorOptions::default() };
    let (_, cuda) = test_devices(&[options]).pop().unwrap();
    if test_gpu().is_some() {
        return skipped("emulator");
    }
    let mut limits = Limits::with_sizes(&cuda, 64, Some((DType::F32, 1 << 13)));
    assert_eq!(limits.linear().unwrap().unwrap().size, 128, "196 608 bytes of 262 144");
}
