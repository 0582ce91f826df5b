//! Error messages where there is no driver, or no GPU of a number.

use moexperts_cuda::{Cuda, CudaOptions};

#[test]
fn a_missing_driver_or_gpu_is_named() {
    match Cuda::devices() {
        Ok(devices) => {
            let error = Cuda::new(CudaOptions { ordinal: devices.len() }).unwrap_err().to_string();
            assert!(error.contains(&format!("no GPU {}: there ", devices.len())), "{error}");
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
