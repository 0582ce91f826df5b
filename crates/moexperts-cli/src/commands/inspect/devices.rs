//! The devices of this machine, and the backends of each.

use moexperts::{
    Cpu, DeviceName,
    core::DeviceKind,
    inspect::{self, DeviceFacts},
};

use super::{listed, table};

/// A line a device, by the name that `--device` takes.
///
/// - `kind`: that of the device in use
/// - `chosen`: the device in use, as it was named
pub(super) fn list(cpu: &Cpu, kind: DeviceKind, chosen: DeviceName) -> String {
    let used = match (kind, chosen) {
        (DeviceKind::Cpu, _) => DeviceName::Cpu,
        (DeviceKind::Gpu, DeviceName::Cuda(ordinal)) => DeviceName::Cuda(ordinal),
        (DeviceKind::Gpu, _) => DeviceName::Cuda(0),
    };
    let line = |device: DeviceFacts| match device {
        DeviceFacts::Found { name, description, backends } => {
            let mark = if name == used { "*" } else { "" };
            (format!("{name}{mark}"), format!("{description}: {}", listed(backends)))
        }
        DeviceFacts::Missing { kind, reason } => (kind.to_owned(), format!("none: {reason}")),
    };
    table(inspect::devices(cpu).into_iter().map(line)) + "  * in use\n"
}
