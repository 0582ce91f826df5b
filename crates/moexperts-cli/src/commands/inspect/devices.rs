//! The devices there are, and the backends of each.

use moexperts::{
    Cpu, Cuda, Device, DeviceName, ExpertsInterface,
    core::{self, DeviceKind},
};

use super::{listed, table};
use crate::hardware::{Hardware as _, described};

/// A line a device, by the name that `--device` takes.
///
/// - `chosen`: the device in use, as it was asked for
pub(super) fn list<D: Device>(cpu: &Cpu, chosen: DeviceName) -> String {
    let used = match (D::KIND, chosen) {
        (DeviceKind::Cpu, _) => DeviceName::Cpu,
        (DeviceKind::Gpu, DeviceName::Cuda(ordinal)) => DeviceName::Cuda(ordinal),
        (DeviceKind::Gpu, _) => DeviceName::Cuda(0),
    };
    let line = |name: DeviceName, what: String, backends: Vec<String>| {
        let mark = if name == used { "*" } else { "" };
        (format!("{name}{mark}"), format!("{what}: {}", listed(backends)))
    };
    let mut lines = vec![line(DeviceName::Cpu, cpu.machine(), ExpertsInterface::names::<Cpu>())];
    let none = |why: String| ("cuda".to_owned(), format!("none: {why}"));
    match Cuda::devices() {
        Ok(gpus) if gpus.is_empty() => lines.push(none("the driver sees no GPU".to_owned())),
        Ok(gpus) => lines.extend(gpus.iter().enumerate().map(|(ordinal, gpu)| {
            line(DeviceName::Cuda(ordinal), described(gpu), ExpertsInterface::names::<Cuda>())
        })),
        Err(core::Error::Device { problem, .. }) => lines.push(none(problem)),
        Err(error) => lines.push(none(error.to_string())),
    }
    table(lines) + "  * in use\n"
}
