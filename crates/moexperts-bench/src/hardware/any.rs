//! A device of any type.

use moexperts::{AnyDevice, DType, core::Result};

use super::{Hardware, Meter};

/// The device itself.
fn inner(device: &AnyDevice) -> &dyn Hardware {
    crate::on_device!(device, device => device)
}

impl Hardware for AnyDevice {
    fn threads(&self) -> Option<usize> {
        inner(self).threads()
    }

    fn summary(&self) -> String {
        inner(self).summary()
    }

    fn machine(&self) -> String {
        inner(self).machine()
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        inner(self).facts()
    }

    fn own_memory(&self) -> Option<u64> {
        inner(self).own_memory()
    }

    fn forget_peak_memory(&self) {
        inner(self).forget_peak_memory();
    }

    fn peak_memory(&self) -> Option<u64> {
        inner(self).peak_memory()
    }

    fn meter(&self, dtype: Option<DType>) -> Result<Box<dyn Meter>> {
        inner(self).meter(dtype)
    }
}
