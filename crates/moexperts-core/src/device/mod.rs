//! A device: its memory, its operations, its settings and how it runs.
//!
//! Model code is written once over [`Device`]. A processor, a GPU or a device that wraps another
//! one implements its four traits; nothing above them knows which.

pub(crate) mod batch;
mod execution;
pub(crate) mod memory;
mod operations;
pub(crate) mod support;
mod tuning;

pub use batch::{Batch, Span};
pub use execution::{Device, DeviceKind, Execution};
pub use memory::{DeviceLinear, Memory};
pub use operations::Operations;
pub use tuning::{Knob, Rows, Tuning};

/// Runs an operation into a new tensor, or a new value of another kind.
///
/// # Errors
/// As the operation.
pub fn made<T: Default, E>(write: impl FnOnce(&mut T) -> Result<(), E>) -> Result<T, E> {
    let mut out = T::default();
    write(&mut out)?;
    Ok(out)
}
