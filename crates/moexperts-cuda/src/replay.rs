//! Work that repeats, captured once.

use std::sync::Arc;

use moexperts_core::Result;

use crate::driver::{DevicePtr, Driver, Work};

/// Submits some work.
pub(crate) fn submit(driver: &Arc<dyn Driver>, work: Work<'_>) -> Result<()> {
    driver.submit(work)
}

/// Reads after everything before.
pub(crate) fn read(driver: &Arc<dyn Driver>, from: DevicePtr, out: &mut [u8]) -> Result<()> {
    driver.read(from, out)
}

/// Waits for everything before.
pub(crate) fn finish(driver: &Arc<dyn Driver>) -> Result<()> {
    driver.synchronize()
}
