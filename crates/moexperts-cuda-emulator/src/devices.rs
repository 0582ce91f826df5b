//! Which devices tests run on.

use std::env;

use moexperts_cuda::{Cuda, CudaOptions};

use crate::{EmulatorOptions, emulated};

/// The number of a GPU for tests to run on in place of emulated ones.
const VARIABLE: &str = "MOEXPERTS_TEST_GPU";

/// The devices a test runs on, with what messages call them: emulated ones, or the one GPU of this
/// machine whose number the variable `MOEXPERTS_TEST_GPU` says.
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

/// The GPU that tests run on, if they run on one.
///
/// # Panics
/// As [`test_devices`].
pub fn test_gpu() -> Option<Cuda> {
    let number = env::var_os(VARIABLE)?;
    let number = number.to_string_lossy();
    let ordinal = number.parse().unwrap_or_else(|_| panic!("{VARIABLE}=`{number}` is no number"));
    Some(Cuda::new(CudaOptions { ordinal }).unwrap_or_else(|error| panic!("{error}")))
}
