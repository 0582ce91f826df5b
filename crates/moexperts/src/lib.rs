//! Runs Mixture-of-Experts models with swappable experts backends.
//!
//! ```no_run
//! use moexperts::{AutoModelForCausalLm, GenerateOptions, LoadOptions};
//!
//! let options = LoadOptions::new().experts_implementation("grouped_mm");
//! let model = AutoModelForCausalLm::from_pretrained("Qwen/Qwen1.5-MoE-A2.7B", options)?;
//! println!("{}", model.generate("The borrow checker", &GenerateOptions::default())?);
//!
//! model.set_experts_implementation("eager")?; // from the next forward on
//! # Ok::<(), moexperts::Error>(())
//! ```
//!
//! A model is found by [`AutoModelForCausalLm`], in a folder or on the hub; its weights are used
//! where they lie in the mapped files, or brought to the GPU if it is loaded on a [`Cuda`]. A backend of one's own is written against
//! [`ExpertsBackend`] and found by name through [`ExpertsInterface`], like the built-in ones.

#![deny(unsafe_code)]

mod any_device;
mod auto;
pub mod blocks;
mod chat_template;
pub mod checkpoint;
pub mod compile;
pub mod config;
mod disk;
mod error;
mod experts_implementation;
pub mod families;
pub mod files;
mod generate;
mod graph;
pub mod hub;
pub mod image_processor;
pub mod inspect;
mod language_model;
pub mod model;
mod multimodal;
mod progress;
mod prompt;
mod session;
mod tokenizer;
pub mod units;
pub mod weights;

pub use any_device::{AnyDevice, DeviceName};
pub use auto::{AutoModel, AutoModelForCausalLm, AutoModelForImageTextToText, LoadOptions};
pub use chat_template::{ChatTemplate, Content, Message, Part};
pub use compile::{CompileMode, CompileOptions};
pub use error::{Error, Result};
pub use experts_implementation::ExpertsImplementation;
pub use generate::{
    Event, FinishReason, GenerateOptions, Generation, GenerationConfig, GenerationStats,
};
pub use graph::{Observer, Stage, VisualFeatures, VisualRows};
pub use image_processor::Image;
pub use language_model::{CompiledPlans, LanguageModel};
pub use model::{LogitsRows, VisionTower};
pub use progress::{Amount, Progress};
pub use prompt::{Position, Prompt, Visual};
pub use session::Session;
pub use tokenizer::Tokenizer;

pub use moexperts_core::{
    self as core, Activation, DType, Device, Execution, ExpertsBackend, ExpertsCall,
    ExpertsInterface, ExpertsSpec, Memory, Operations, Tuning,
};
pub use moexperts_cpu::{self as cpu, Cpu, CpuOptions};
pub use moexperts_cuda::{self as cuda, Cuda, CudaOptions};

/// The pages of the documentation that are programs.
#[cfg(doctest)]
mod documentation {
    #[doc = include_str!("../../../README.md")]
    struct Readme;

    #[doc = include_str!("../../../docs/adding-a-backend.md")]
    struct AddingABackend;

    #[doc = include_str!("../../../docs/compile.md")]
    struct Compile;
}
