//! A model on a device, as a model on any.

use std::{any::Any, collections::BTreeMap};

use moexperts_core::{DType, Device, DeviceKind};

use super::{
    device_model::{DeviceMemory, DeviceModel},
    runner::{CompiledPlans, ForwardInput, Runner, UnreadPrompt},
};
use crate::{
    any_device::AnyDevice,
    blocks::VisionSpec,
    compile::{CompileOptions, CompileReport, Explanation},
    error::{Error, Result},
    experts_implementation::ExpertsImplementation,
    model::DecoderSpec,
    prompt::{Prompt, Visual},
    session::SessionMemory,
};

impl<D: Device> Runner for DeviceModel<D> {
    fn number(&self) -> u64 {
        self.decoder.number()
    }

    fn origin(&self) -> &str {
        &self.origin
    }

    fn spec(&self) -> &DecoderSpec {
        self.decoder.spec()
    }

    fn dtype(&self) -> Option<DType> {
        self.decoder.experts().first()?.spec().format.dense()
    }

    fn vision(&self) -> Option<(&VisionSpec, DType)> {
        self.tower.as_ref().map(|tower| (tower.spec(), tower.dtype()))
    }

    fn device_name(&self) -> &'static str {
        D::NAME
    }

    fn device_kind(&self) -> DeviceKind {
        D::KIND
    }

    fn device(&self) -> Option<AnyDevice> {
        AnyDevice::of(self.decoder.device())
    }

    fn set_experts_implementation(&self, implementation: &ExpertsImplementation) -> Result<()> {
        self.choose(implementation)
    }

    fn experts_implementation(&self) -> BTreeMap<String, String> {
        self.setup().choices.names()
    }

    fn backend_cache_bytes(&self) -> usize {
        self.all_experts().iter().map(|experts| experts.cache().size_bytes()).sum()
    }

    fn clear_backend_caches(&self) {
        for experts in self.all_experts() {
            experts.cache().clear();
        }
    }

    fn compile(&self, options: CompileOptions) -> Result<CompileReport> {
        self.make_plans(options)
    }

    fn compiled(&self) -> Option<CompiledPlans> {
        self.plans()
    }

    fn set_compiled(&self, plans: Option<CompiledPlans>) -> Result<()> {
        self.set_plans(plans)
    }

    fn compile_options(&self) -> Option<CompileOptions> {
        self.setup().compiled.as_ref().map(|compiled| compiled.options().clone())
    }

    fn explain(&self) -> Option<Explanation> {
        self.setup().compiled.as_ref().map(|compiled| compiled.explain(&self.decoder))
    }

    fn new_memory(&self, sequences: usize) -> Result<Box<dyn SessionMemory>> {
        Ok(Box::new(self.memory(sequences)?))
    }

    fn can_cut(
        &self,
        memory: &mut dyn SessionMemory,
        sequence: usize,
        position: usize,
    ) -> Result<bool> {
        let state = &of_device::<D>(memory)?.forward.state;
        Ok(self.device().can_cut(state, sequence, position))
    }

    fn reserve(
        &self,
        memory: &mut dyn SessionMemory,
        sequence: usize,
        positions: usize,
    ) -> Result<()> {
        let state = &mut of_device::<D>(memory)?.forward.state;
        Ok(self.device().reserve_positions(state, sequence, positions)?)
    }

    fn read_pictures(
        &self,
        prompts: &mut dyn Iterator<Item = UnreadPrompt<'_>>,
        memory: &mut dyn SessionMemory,
    ) -> Result<usize> {
        let patches = self.take_pictures(prompts, of_device(memory)?)?;
        if patches > 0 {
            self.device().synchronize()?;
        }
        Ok(patches)
    }

    fn read_picture(&self, visual: &Visual) -> Result<()> {
        self.visual_features(visual)?;
        Ok(self.device().synchronize()?)
    }

    fn forward(
        &self,
        input: ForwardInput<'_>,
        memory: &mut dyn SessionMemory,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        self.run(input, of_device(memory)?, None, logits)
    }

    fn logits(&self, prompt: &Prompt) -> Result<Vec<f32>> {
        self.logits_of(prompt, None)
    }
}

/// The memory of a session on a device of this type.
///
/// # Errors
/// [`Error::Option`] if it is of another.
fn of_device<D: Device>(memory: &mut dyn SessionMemory) -> Result<&mut DeviceMemory<D>> {
    let memory: &mut dyn Any = memory;
    memory.downcast_mut().ok_or_else(|| Error::Option {
        option: "session",
        got: "of a model on another device".to_owned(),
        expected: format!("one of a model on {}", D::NAME),
    })
}
