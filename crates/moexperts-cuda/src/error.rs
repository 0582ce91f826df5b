//! Errors of this device.

use moexperts_core::Error;

/// What messages and options call the device.
pub(crate) const DEVICE: &str = "CUDA";

/// An [`Error::Device`] of the GPU.
pub(crate) fn problem(problem: impl Into<String>) -> Error {
    Error::Device { device: DEVICE, problem: problem.into() }
}
