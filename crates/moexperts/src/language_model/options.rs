//! How a model is loaded.

use std::{collections::BTreeMap, fmt, num::NonZero, sync::Arc};

use moexperts_core::DType;
use moexperts_cpu::CpuOptions;

#[cfg(feature = "hub")]
use crate::hub::HubOptions;
use crate::{
    any_device::{AnyDevice, DeviceName},
    error::Result,
    experts_implementation::ExpertsImplementation,
    progress::Progress,
};

/// How a model is loaded.
#[derive(Clone)]
pub struct LoadOptions {
    pub(crate) dtype: Option<DType>,
    pub(crate) experts_implementation: ExpertsImplementation,
    device: DeviceName,
    threads: Option<NonZero<usize>>,
    #[cfg(feature = "hub")]
    pub(crate) hub: HubOptions,
    pub(crate) progress: Arc<dyn Progress>,
}

impl LoadOptions {
    /// Weights as stored, `grouped_mm`, the CPU with every thread of the machine.
    pub fn new() -> Self {
        Self {
            dtype: None,
            experts_implementation: ExpertsImplementation::PerBackbone(BTreeMap::new()),
            device: DeviceName::Cpu,
            threads: None,
            #[cfg(feature = "hub")]
            hub: HubOptions::default(),
            progress: Arc::new(()),
        }
    }

    /// Element type of the weights. Another than the stored one is converted while loading, and
    /// then held in memory; by default weights stay in the file as they are.
    #[must_use]
    pub fn dtype(mut self, dtype: impl Into<Option<DType>>) -> Self {
        self.dtype = dtype.into();
        self
    }

    /// The experts backend, for the whole model or per backbone.
    #[must_use]
    pub fn experts_implementation(mut self, choice: impl Into<ExpertsImplementation>) -> Self {
        self.experts_implementation = choice.into();
        self
    }

    /// Where to compute, for loaders that are not given a device; by default the CPU.
    #[must_use]
    pub fn device(mut self, device: DeviceName) -> Self {
        self.device = device;
        self
    }

    /// Threads of the CPU, for loaders that are not given a device.
    #[must_use]
    pub fn threads(mut self, threads: impl Into<Option<NonZero<usize>>>) -> Self {
        self.threads = threads.into();
        self
    }

    /// Revision, token, cache and endpoint for models from the hub.
    #[cfg(feature = "hub")]
    #[must_use]
    pub fn hub(mut self, hub: HubOptions) -> Self {
        self.hub = hub;
        self
    }

    /// Receives the progress of downloads and conversions.
    #[must_use]
    pub fn progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// The device of loaders that are not given one.
    ///
    /// # Errors
    /// As [`AnyDevice::find`].
    pub(crate) fn find_device(&self) -> Result<AnyDevice> {
        AnyDevice::find(self.device, CpuOptions { threads: self.threads, isa: None })
    }
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("LoadOptions");
        shown
            .field("dtype", &self.dtype)
            .field("experts_implementation", &self.experts_implementation)
            .field("device", &self.device)
            .field("threads", &self.threads);
        #[cfg(feature = "hub")]
        shown.field("hub", &self.hub);
        shown.finish_non_exhaustive()
    }
}
