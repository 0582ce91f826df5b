//! Models of random weights in memory: layers as large as a known model's, as many as wanted.
//!
//! The weights are the image of a safetensors file, in the dtype they are used in and under the
//! names of published checkpoints, so that loading finds them as it finds files and converts
//! nothing.

mod config;
mod image;
mod tensors;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use moexperts::{
    DType, Error,
    checkpoint::Checkpoint,
    config::Config,
    families,
    files::ModelFiles,
    model::DecoderSpec,
    units::counted,
    weights::{AsPublished, TensorSpec},
};
use serde_json::Value;

use crate::{args::LayerShape, error::BenchError, free_memory::FreeMemory, output::text::bytes};

/// About what names, headers and views take for each tensor: nothing beside real weights, but most
/// of the memory where a million experts have a weight each.
const BYTES_PER_TENSOR: u128 = 512;

/// A model that is described, and not yet in memory.
#[derive(Debug)]
pub(crate) struct RandomModel {
    origin: String,
    config: Config,
    spec: DecoderSpec,
    dtype: DType,
}

impl RandomModel {
    /// The model with the layers of a shape.
    ///
    /// # Errors
    /// [`BenchError::NoFamily`] for a shape whose model cannot be loaded; for a number that no model
    /// can have.
    pub(crate) fn new(shape: &LayerShape, layers: usize, dtype: DType) -> Result<Self, BenchError> {
        let layers_text = counted(layers, "layer");
        let origin = format!("{}, {layers_text}, random weights", shape.name);
        Ok(Self::described(origin, &config::of(shape, layers)?, dtype)?)
    }

    fn described(origin: String, config: &Value, dtype: DType) -> Result<Self, Error> {
        let config = Config::parse(origin.clone(), &config.to_string())?;
        let spec = families::describe(&config)?.text;
        Ok(Self { origin, config, spec, dtype })
    }

    /// Makes the weights, with some threads, and returns them as files to load.
    ///
    /// # Errors
    /// [`BenchError::Memory`] if they take more than half of what is free in the memory of the machine
    /// or of the device.
    pub(crate) fn files(
        self,
        seed: u64,
        free: FreeMemory,
        threads: usize,
    ) -> Result<ModelFiles, BenchError> {
        let budget = free.machine_budget().min(free.own_budget().unwrap_or(usize::MAX));
        let size_bytes = self.size_bytes();
        if size_bytes > budget as u128 {
            let size = bytes(size_bytes.try_into().unwrap_or(u64::MAX));
            return Err(BenchError::Memory {
                what: format!("the model ({}) takes {size}", self.origin),
                limit: bytes(budget as u64),
                hint: "take fewer layers, or a shape of smaller numbers",
            });
        }
        let tensors = tensors::of(&self.spec);
        let image = image::of(&tensors, self.dtype, seed, threads);
        let checkpoint = Checkpoint::from_storage(self.origin.clone(), Arc::new(image))?;
        // Random models are given token ids: they have no tokenizer.
        Ok(ModelFiles::new(self.origin, self.config, checkpoint))
    }

    /// Bytes of memory; wide, because the largest shapes and numbers of layers are beyond 64 bits.
    fn size_bytes(&self) -> u128 {
        let bytes = |tensor: &TensorSpec| {
            let elements = tensor.elements() * self.dtype.size_bytes() as u128;
            elements + tensor.count() as u128 * BYTES_PER_TENSOR
        };
        self.spec.tensors(&AsPublished).iter().map(bytes).sum()
    }
}
