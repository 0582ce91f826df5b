//! A family as data.

use crate::{
    config::Config,
    error::Result,
    model::{DecoderSpec, ModelSpec},
};

/// A family: the `model_type` of its configs and how to read them.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    pub(super) describe: Describe,
}

/// Reads a `config.json`, by what the family's models do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Describe {
    CausalLm(fn(&Config) -> Result<DecoderSpec>),
    ImageTextToText(fn(&Config) -> Result<ModelSpec>),
}

/// What a model's input and output are; each has a loader of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Task {
    /// Text to text: `AutoModelForCausalLm`.
    CausalLm,
    /// Images and text to text: `AutoModelForImageTextToText`.
    ImageTextToText,
}

impl Task {
    /// What loads models of this task.
    pub const fn loader(self) -> &'static str {
        match self {
            Self::CausalLm => "AutoModelForCausalLm",
            Self::ImageTextToText => "AutoModelForImageTextToText",
        }
    }
}

impl Family {
    pub(super) const fn causal_lm(
        model_type: &'static str,
        describe: fn(&Config) -> Result<DecoderSpec>,
    ) -> Self {
        Self { model_type, describe: Describe::CausalLm(describe) }
    }

    pub(super) const fn image_text_to_text(
        model_type: &'static str,
        describe: fn(&Config) -> Result<ModelSpec>,
    ) -> Self {
        Self { model_type, describe: Describe::ImageTextToText(describe) }
    }

    /// What its models do.
    pub const fn task(&self) -> Task {
        match self.describe {
            Describe::CausalLm(_) => Task::CausalLm,
            Describe::ImageTextToText(_) => Task::ImageTextToText,
        }
    }
}
