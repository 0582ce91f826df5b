//! A loaded model.
//!
//! `front` is [`LanguageModel`], which knows no device: `prompts` makes what it reads, `load` makes
//! the model. It computes through `runner`, a trait without a type parameter. Its one implementation,
//! `erased`, is [`DeviceModel`]: a decoder and a vision tower on a device of a known type
//! (`device_model`), with the backends and the plans that run them (`switching`). So the loop that
//! generates tokens is compiled once, and a model once for each device.

mod device_model;
mod erased;
mod front;
mod load;
mod options;
mod prompts;
mod runner;
mod switching;

pub(crate) use self::runner::{ForwardInput, UnreadPrompt, check_context};
pub use self::{
    device_model::DeviceModel, front::LanguageModel, load::LoadTarget, options::LoadOptions,
    runner::CompiledPlans,
};
