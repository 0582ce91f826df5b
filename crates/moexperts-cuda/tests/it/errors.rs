//! What is said where there is no driver, no GPU of a number, or no compiler.

use moexperts_cuda::{Cuda, CudaOptions};

#[test]
fn without_a_driver_the_error_says_which_library_was_looked_for() {
    match Cuda::devices() {
        Ok(devices) => {
            let error = Cuda::new(CudaOptions { ordinal: devices.len() }).unwrap_err().to_string();
            assert!(error.contains(&format!("no GPU of number {}", devices.len())), "{error}");
        }
        Err(error) => {
            let error = error.to_string();
            let same = Cuda::new(CudaOptions::default()).unwrap_err().to_string();
            assert_eq!(error, same);
            assert!(error.starts_with("CUDA: "), "{error}");
            assert!(error.contains("libcuda.so") || error.contains("driver"), "{error}");
        }
    }
}
