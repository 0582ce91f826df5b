//! The command line of devices.

use std::num::NonZero;

use moexperts::{Amount, AnyDevice, CpuOptions, Cuda, DeviceName, Error};

use crate::{error::BenchError, output::progress};

/// Where to compute.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Device")]
pub struct DeviceArgs {
    /// `cpu`, `cuda`, `cuda:N` for GPU number N, or `auto`: the first GPU if there is one, else the
    /// CPU.
    #[arg(
        long,
        value_name = "DEVICE",
        default_value_t,
        value_parser = str::parse::<DeviceName>
    )]
    pub device: DeviceName,

    /// Threads of the CPU to compute with; as many as the machine has by default.
    #[arg(long, value_name = "N")]
    threads: Option<NonZero<usize>>,
}

impl DeviceArgs {
    /// Finds the device.
    ///
    /// # Errors
    /// If there is no such device, or its kernels cannot be compiled.
    pub fn find(&self) -> Result<AnyDevice, BenchError> {
        find(self.device, self.cpu())
    }

    /// How the CPU computes.
    pub fn cpu(&self) -> CpuOptions {
        CpuOptions { threads: self.threads, isa: None }
    }
}

/// Finds a device.
pub(crate) fn find(name: DeviceName, cpu: CpuOptions) -> Result<AnyDevice, BenchError> {
    let found = AnyDevice::find(name, cpu)?;
    if let AnyDevice::Cuda(gpu) = &found {
        compile_kernels(gpu)?;
    }
    Ok(found)
}

/// Compiles what was not compiled on this machine yet, so that no prompt waits for it.
fn compile_kernels(gpu: &Cuda) -> Result<(), BenchError> {
    const WHAT: &str = "compiling the GPU's kernels, once";
    let modules = gpu.uncompiled_kernels().len();
    if modules > 0 {
        let bars = progress::bars();
        bars.start(WHAT, Amount::Steps(modules as u64));
        gpu.compile_kernels(|| bars.advance(WHAT, 1)).map_err(Error::from)?;
        bars.finish(WHAT);
    }
    Ok(())
}
