//! A device: its memory, its operations, its settings and how it runs.
//!
//! Model code is written once over [`Device`]. A processor, a GPU or a device that wraps another
//! one implements its four traits; nothing above them knows which.

mod batch;
mod execution;
mod memory;
mod operations;
pub(crate) mod support;
mod tuning;

use std::fmt::Debug;

pub use batch::{Batch, Span};
pub use execution::{DeviceKind, Execution};
pub use memory::Memory;
pub use operations::Operations;
pub use tuning::{Knob, Rows, Tuning};

use crate::weights::Linear;

/// A place where models run: where weights and activations lie ([`Memory`]), what is computed with
/// them ([`Operations`]), with which settings ([`Tuning`]), and how ([`Execution`]).
///
/// Every type with the four traits is a device.
pub trait Device:
    Memory + Operations + Tuning + Execution + Debug + Clone + Send + Sync + 'static
{
}

impl<D> Device for D where
    D: Memory + Operations + Tuning + Execution + Debug + Clone + Send + Sync + 'static
{
}

/// A linear layer on device `D`.
pub type DeviceLinear<D> = Linear<<D as Memory>::Matrix, <D as Memory>::Vector>;

/// Runs an operation into a new tensor, or a new value of another kind.
///
/// # Errors
/// As the operation.
pub fn made<T: Default, E>(write: impl FnOnce(&mut T) -> Result<(), E>) -> Result<T, E> {
    let mut out = T::default();
    write(&mut out)?;
    Ok(out)
}
