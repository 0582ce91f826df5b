//! What the integration tests share.

pub(crate) mod attention;

use moexperts_conformance::Random;
use moexperts_core::{Device, Matrix, Memory, Result, Weight};
use moexperts_cuda::{Cuda, CudaMatrix};
use moexperts_cuda_emulator::{Copies, EmulatorOptions, Order, test_devices};

/// The GPU that tests run on, or two emulated ones: a Hopper, and one with less shared memory. They differ
/// in the order of threads and in when copies happen.
pub(crate) fn devices() -> Vec<(String, Cuda)> {
    let hopper = EmulatorOptions::default();
    let small = EmulatorOptions { compute_capability: (8, 9), multiprocessors: 20, ..hopper };
    test_devices(&[
        EmulatorOptions { order: Order::Shuffled(1), ..hopper },
        EmulatorOptions { order: Order::Descending, copies: Copies::Early, ..small },
    ])
}

/// Values in `-1 .. 1`.
pub(crate) fn values(len: usize, seed: u64) -> Vec<f32> {
    Random::new(seed).values(len)
}

/// Values in `-1 .. 1`, on a device.
pub(crate) fn tensor<D: Device>(device: &D, rows: usize, cols: usize, seed: u64) -> D::Tensor {
    let mut out = D::Tensor::default();
    device.load_tensor(rows, cols, &values(rows * cols, seed), &mut out).unwrap();
    out
}

/// The same weight as part of a wider one, so that its rows are not aligned to 16 bytes.
pub(crate) fn load_shifted(cuda: &Cuda, weight: &Matrix) -> CudaMatrix {
    let (rows, cols) = (weight.rows(), weight.cols());
    let mut wide = vec![f32::NAN; rows * (cols + 2)];
    for (row, to) in wide.chunks_exact_mut(cols + 2).enumerate() {
        weight.row(row).write_f32(&mut to[1..=cols]);
    }
    let wide = Matrix::from_f32(rows, cols + 2, &wide, weight.elements().dtype()).unwrap();
    cuda.load_matrix(wide).unwrap().block(0..rows, 1..cols + 1)
}

pub(crate) fn read<D: Device>(device: &D, tensor: &D::Tensor) -> Vec<f32> {
    let mut out = Vec::new();
    device.read_tensor(tensor, &mut out).unwrap();
    out
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The outcome of an operation: its values and how far off they may be, or the text of its error.
pub(crate) struct Outcome {
    what: String,
    result: Result<Vec<f32>, String>,
    allowance: f32,
}

/// The outcomes of a series of operations on a device.
pub(crate) struct Walk<'a, D> {
    pub(crate) device: &'a D,
    pub(crate) outcomes: Vec<Outcome>,
}

impl<'a, D: Device> Walk<'a, D> {
    pub(crate) fn new(device: &'a D) -> Self {
        Self { device, outcomes: Vec::new() }
    }

    pub(crate) fn push(&mut self, what: &str, allowance: f32, result: Result<Vec<f32>>) {
        let result = result.map_err(|error| error.to_string());
        self.outcomes.push(Outcome { what: what.to_owned(), result, allowance });
    }

    /// Runs an operation into a new tensor, then twice into one that held something else.
    pub(crate) fn made(
        &mut self,
        what: &str,
        allowance: f32,
        run: impl Fn(&D, &mut D::Tensor) -> Result<()>,
    ) {
        let device = self.device;
        let made = |mut out: D::Tensor, times: usize| {
            (0..times).try_for_each(|_| run(device, &mut out))?;
            Ok(read(device, &out))
        };
        let result = made(D::Tensor::default(), 1);
        let mut other = D::Tensor::default();
        device.load_tensor(3, 50, &[f32::NAN; 150], &mut other).unwrap();
        if let (Ok(result), Ok(again)) = (&result, made(other, 2)) {
            assert_eq!(bits(result), bits(&again), "{what} again");
        }
        self.push(what, allowance, result);
    }

    /// Runs an operation that changes a tensor [rows, cols].
    pub(crate) fn changed(
        &mut self,
        what: &str,
        allowance: f32,
        [rows, cols]: [usize; 2],
        run: impl FnOnce(&D, &mut D::Tensor) -> Result<()>,
    ) {
        let mut x = tensor(self.device, rows, cols, 1);
        let result = run(self.device, &mut x).map(|()| read(self.device, &x));
        self.push(what, allowance, result);
    }
}

/// Checks outcomes: values differ by no more than is allowed, relative to those beyond 1, and errors have
/// the same text.
pub(crate) fn check(device: &str, got: &[Outcome], expected: &[Outcome]) {
    assert_eq!(got.len(), expected.len(), "{device}");
    for (got, Outcome { what, result: expected, allowance }) in got.iter().zip(expected) {
        let (got, expected) = match (&got.result, expected) {
            (Ok(got), Ok(expected)) => (got, expected),
            (got, expected) => {
                assert_eq!(got.as_ref().err(), expected.as_ref().err(), "{device}: {what}");
                continue;
            }
        };
        assert_eq!(got.len(), expected.len(), "{device}: {what}");
        for (at, (&got, &expected)) in got.iter().zip(expected).enumerate() {
            let near = (got - expected).abs() <= allowance * expected.abs().max(1.0);
            let same = got == expected || got.is_nan() && expected.is_nan();
            assert!(near || same, "{device}: {what} at {at}: {got}, expected {expected}");
        }
    }
}
