//! The driver's library, and the GPUs that it finds.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::OnceLock,
};

use cudarc::driver::{
    result::{self, DriverError},
    sys,
};
use moexperts_core::Result;

use super::error::{refused, text};
use crate::{driver::Properties, error::problem};

/// Loads and starts the driver, once.
fn start() -> Result<()> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    let started = STARTED.get_or_init(|| {
        // SAFETY: loading `libcuda` runs its initialisers alone, which NVIDIA allows at any time and from
        // any thread.
        if !unsafe { sys::is_culib_present() } {
            let name = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so" };
            return Err(format!(
                "no NVIDIA driver: `{name}` is not where the system looks for libraries; install the \
                 driver, or use `--device cpu`"
            ));
        }
        // cudarc panics if a function is missing, as in a driver older than its bindings.
        match catch_unwind(AssertUnwindSafe(result::init)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("the NVIDIA driver does not start: {}", text(error))),
            Err(_) => Err("the NVIDIA driver is too old".to_owned()),
        }
    });
    started.clone().map_err(problem)
}

/// Number of GPUs.
pub(super) fn count() -> Result<usize> {
    start()?;
    let count = result::device::get_count().map_err(refused("counting the GPUs"))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Describes a GPU.
pub(super) fn properties(device: sys::CUdevice) -> Result<Properties, DriverError> {
    use sys::CUdevice_attribute_enum as Attribute;
    let get = |attribute| {
        // SAFETY: `device` was returned by `result::device::get`, so it is a device of the driver.
        let value = unsafe { result::device::get_attribute(device, attribute) }?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    Ok(Properties {
        name: result::device::get_name(device)?,
        compute_capability: (
            get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: get(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes_per_block: get(
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        )?,
        l2_bytes: u64::from(get(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?),
        // SAFETY: as above.
        memory_bytes: unsafe { result::device::total_mem(device) }? as u64,
    })
}
