//! How a device's work runs, and the experts backends that come with it.

use std::{fmt::Debug, sync::Arc};

use crate::{
    device::{memory::Memory, operations::Operations, tuning::Tuning},
    error::{Error, Result},
    experts::backend::ExpertsBackend,
    operations::Operation,
};

/// A place where models run: where weights and activations lie ([`Memory`]), what is computed with
/// them ([`Operations`]), with which settings ([`Tuning`]), and how ([`Execution`]).
///
/// Every type with the four traits is a device.
pub trait Device:
    Memory + Operations + Tuning + Execution + Debug + Clone + Send + Sync + 'static
{
    /// Refuses a model that needs an operation which the device lacks.
    ///
    /// # Errors
    /// [`Error::Device`] that names the operation.
    fn check_operation(&self, operation: Operation) -> Result<()> {
        if self.has_operation(operation) {
            return Ok(());
        }
        let name = operation.name();
        let problem = format!("the operation `{name}` is not supported, the CPU has it");
        Err(Error::Device { device: Self::NAME, problem })
    }
}

impl<D> Device for D where
    D: Memory + Operations + Tuning + Execution + Debug + Clone + Send + Sync + 'static
{
}

/// What kind of machine a device is.
///
/// Exhaustive: it says where weights lie, and there is no third answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A processor, reading weights from host memory.
    Cpu,
    /// An accelerator with separate memory.
    Gpu,
}

/// The name and kind of a device, and how a sequence of operations runs on it.
pub trait Execution: Memory {
    /// Its name in messages: `CPU`.
    const NAME: &'static str;
    /// The kind of machine.
    const KIND: DeviceKind;
    /// Whether it captures the work of a plan that runs repeatedly, and then launches it as one.
    const CAPTURES_GRAPHS: bool = false;

    /// The device's record of a plan that runs repeatedly; empty by default.
    type Recording: Debug + Default + Send;
    /// The device that experts run on: `Self`, or of a device that wraps another one the inner
    /// one. Experts backends are found by it, so that a wrapper has those of what it wraps.
    type Experts: Device<
            Experts = Self::Experts,
            Matrix = Self::Matrix,
            Vector = Self::Vector,
            Tensor = Self::Tensor,
            Routing = Self::Routing,
        >;

    /// The backends that come with the device that experts run on, in the order users see them.
    fn built_in_experts() -> Vec<Arc<dyn ExpertsBackend<Self::Experts>>>;

    /// The name of the backend that runs while tokens are generated one by one, where `prefill` ran
    /// the prompt: the same, unless another one of the device is faster for few tokens.
    ///
    /// Names are those of [`Execution::Experts`], so this is called on that device.
    fn decode_experts(prefill: &str) -> &str {
        prefill
    }

    /// The device that experts run on.
    fn experts_device(&self) -> &Self::Experts;

    /// Runs `work` where the device's operations start fastest (inside its thread pool).
    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R;

    /// [`enter`](Self::enter) for all operations of a plan, one after another, at the end of which
    /// something is read. With a `recording`, they are the operations of the runs before, on the
    /// same memory: a device may capture them, and launch all of them at once.
    fn enter_plan<R: Send>(
        &self,
        recording: Option<&mut Self::Recording>,
        work: impl FnOnce() -> R + Send,
    ) -> R {
        let _ = recording;
        self.enter(work)
    }

    /// Waits until all operations so far are done, to measure their time: a device may still work
    /// when an operation has returned. Reading a tensor waits without it.
    ///
    /// By default every operation is done when it returns.
    ///
    /// # Errors
    /// If the device failed at an operation before.
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}
