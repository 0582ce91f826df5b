//! Which devices tests run on.

use std::sync::OnceLock;

use moexperts_core::Variable;
use moexperts_cuda::{Cuda, CudaOptions};

use crate::{EmulatorOptions, emulated};

const TEST_GPU: Variable = Variable::new(
    "MOEXPERTS_TEST_GPU",
    "the number of the GPU that tests run on; else they run on emulated ones",
);

/// Every environment variable that this crate reads.
pub const VARIABLES: &[Variable] = &[TEST_GPU];

/// The devices that a test runs on, with their names in messages: emulated ones, or the GPU whose number
/// the variable `MOEXPERTS_TEST_GPU` gives.
///
/// # Panics
/// If the variable is no number, or that GPU cannot be used.
pub fn test_devices(options: &[EmulatorOptions]) -> Vec<(String, Cuda)> {
    if let Some(cuda) = test_gpu() {
        return vec![(cuda.properties().name.clone(), cuda)];
    }
    let emulate = |options: &EmulatorOptions| (format!("{options:?}"), emulated(*options));
    options.iter().map(emulate).collect()
}

/// The GPU that tests run on, if they run on one; opened once, so that its kernels are loaded once.
///
/// # Panics
/// As [`test_devices`].
pub fn test_gpu() -> Option<Cuda> {
    static GPU: OnceLock<Option<Cuda>> = OnceLock::new();
    let open = || {
        let number = TEST_GPU.get()?;
        let (number, name) = (number.to_string_lossy(), TEST_GPU.name);
        let ordinal = number.parse().unwrap_or_else(|_| panic!("{name}=`{number}` is no number"));
        Some(Cuda::new(CudaOptions { ordinal }).unwrap_or_else(|error| panic!("{error}")))
    };
    GPU.get_or_init(open).clone()
}
